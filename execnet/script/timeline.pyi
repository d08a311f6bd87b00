from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from execnet.gateway_base import BaseGateway, Channel, WorkerGateway

SENT: int
RECEIVED: int
CALLED: int
WAITED: int
ARRIVED: int
CHANNEL_DATA: int
EVERY: float
LAST: float
MOST: int
LONGEST_PAUSE: float
LONGEST_RUN: float

# kind, channel id, number of the first item or -1, count, bytes, begun, ended, spent, thread
Note = tuple[int, int, int, int, int, float, float, float, int]
# "B" or "E", when, thread, channel id, name
Event = tuple[str, float, int, int, str]
Batch = tuple[int, list[Note], list[Event], dict[int, str]]

def clock() -> float: ...

class Notes:
    gateway: BaseGateway
    connection: Any
    notes: deque[Note]
    events: deque[Event]
    lost: int
    counts: dict[tuple[int, int], int]
    names: dict[int, str]
    send: Callable[..., None]
    receive: Callable[..., None]
    def __init__(self, gateway: BaseGateway) -> None: ...
    def start(self) -> None: ...
    def noting_send(self, code: int, channel: int = 0, data: bytes = b"") -> None: ...
    def noting_receive(self, channel: int, data: bytes) -> None: ...
    def note(self, kind: int, channel: int, begun: float, size: int) -> None: ...
    def add(self, what: str, channel: int, text: str = "") -> None: ...
    def take(self) -> Batch: ...

def drained(items: deque[Any]) -> list[Any]: ...
def runs(notes: Iterable[Note]) -> list[Note]: ...
def note_waits(queue_class: type[Any]) -> None: ...

class Worker(Notes):
    gateway: WorkerGateway
    data_id: int
    dumps: Callable[[object], bytes]
    execute: Callable[[tuple[Channel, Any]], None]
    before_closing: Callable[[], object]
    over: Any
    carried: Any
    def start(self, data_id: int) -> None: ...  # type: ignore[override]
    def noting_task(self, item: tuple[Channel, Any]) -> None: ...
    def carry(self) -> None: ...
    def hand_over(self, always: bool = False) -> None: ...
    def end(self) -> None: ...

def serve(channel: Channel) -> None: ...
