from collections.abc import Mapping
from typing import Any

from execnet.gateway_base import Channel, WorkerGateway

CHUNK: int
WINDOW: int
LAST: int
PATIENCE: float
NUMBERS: dict[str, int]
CHANNEL_DATA: int
CHANNEL_CLOSE: int
BYTES: bytes
STOP: bytes

Wanted = Mapping[str, tuple[int, int] | None]

class Pipe:
    gateway: WorkerGateway
    data_id: int
    written_id: int
    sent: int
    written: int
    is_last: bool
    done: Any
    told: Any
    read_end: int
    write_end: int

    def __init__(self, gateway: WorkerGateway, data_id: int, written_id: int) -> None: ...
    def start(self) -> None: ...
    def tell(self, count: int | None) -> None: ...
    def carry(self) -> None: ...
    def await_window(self, count: int) -> None: ...
    def send(self, code: int, data: bytes) -> None: ...

class Relay(Pipe):
    def known(self) -> tuple[int, int, int]: ...

class Output(Pipe):
    name: str
    former: int

    def __init__(self, gateway: WorkerGateway, name: str, data_id: int, written_id: int) -> None: ...
    def end(self) -> None: ...

def flush(stream: Any) -> None: ...
def write_at_line_ends(name: str, number: int) -> None: ...
def nowhere() -> int: ...
def relay(gateway: WorkerGateway, wanted: Wanted) -> dict[str, tuple[int, int, int]]: ...
def redirect(gateway: WorkerGateway, wanted: Wanted) -> None: ...
def serve(channel: Channel) -> None: ...
