"""Starting ahead: processes for specs that were announced, while another gateway comes up."""

from __future__ import annotations

import os

from execnet._group.starting import Start
from execnet.gateway_base import OneShotEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet._group.starting import Home
    from execnet.xspec import XSpec


class _Begun:
    """A start that is being begun ahead, or has been."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.ready = OneShotEvent(start.group.execmodel)
        #: After it was discarded: its id is free and its spec as it came.
        self.gone = OneShotEvent(start.group.execmodel)
        #: Nothing of it failed: it has its id and its process.
        self.worked = False

    def begin(self) -> None:
        """Begin it. Why that fails is told by the makegateway that asks for it."""
        try:
            self.start.reserve()
            self.start.begin()
            self.worked = True
        except Exception:
            self.start.undo()
        except BaseException:
            self.start.undo()
            raise
        finally:
            self.ready.set()

    def when_ready(self) -> Start | None:
        """The start, once it is begun; None where that failed."""
        self.ready.wait()
        return self.start if self.worked else None

    def end(self) -> None:
        """Remove all there is of it."""
        start = self.when_ready()
        if start is not None:
            start.undo()


class Ahead:
    """The specs that a group has named, and the starts begun for them.

    Of the one who begins and the one who asks, whoever takes the spec from `_announced` was first. Whoever begins
    has entered its start before: so one who asks second finds it, and waits until it is begun. Of the one who discards
    and the one who asks, too, whoever takes the start from `_begun` was first; it was entered in `_discarded` before.
    """

    def __init__(self, group: Home) -> None:
        self.group = group
        #: How many starts may be waiting to be asked for.
        self.limit = limit_wanted()
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a forked child: the starts are the parent's, and so are the locks of its tables."""
        # By what a spec is, not by what it says; each change is one call.
        self._announced: dict[int, XSpec] = {}
        self._begun: dict[int, _Begun] = {}
        self._discarded: dict[int, _Begun] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begun(self) -> list[Start]:
        """The starts that nobody has asked for yet."""
        return [begun.start for begun in list(self._begun.values())]

    def announce(self, spec: XSpec) -> None:
        """The spec will be asked for."""
        if self.limit:
            self._announced[id(spec)] = spec

    def taken(self, spec: object) -> Start | None:
        """The start begun for the spec that is asked for now, the caller's from now on."""
        if self._announced.pop(id(spec), None) is not None:
            return None
        begun = self._begun.pop(id(spec), None)
        if begun is not None:
            return begun.when_ready()
        discarded = self._discarded.get(id(spec))
        if discarded is not None:
            discarded.gone.wait()
        return None

    def begin(self) -> None:
        """Start processes, up to the limit. What can't be started is told by its own makegateway."""
        for key in list(self._announced):
            if len(self._begun) >= self.limit:
                return
            spec = self._announced.get(key)
            if spec is not None and not (spec.via or spec.socket or spec.warm or spec.preload):
                self._begin(key, spec)

    def _begin(self, key: int, spec: XSpec) -> None:
        try:
            begun = _Begun(Start(self.group, spec))
        except ValueError:
            self._announced.pop(key, None)
            return
        if self._begun.setdefault(key, begun) is not begun:
            return  # another thread is at it
        if self._announced.pop(key, None) is None:  # it was asked for meanwhile
            self._begun.pop(key, None)
            begun.ready.set()
            return
        try:
            begun.begin()
        finally:
            if not begun.worked:
                self._begun.pop(key, None)

    def discard(self) -> None:
        """End what nobody asked for."""
        self._announced.clear()
        for key in list(self._begun):
            begun = self._begun.get(key)
            if begun is not None and self._discarded.setdefault(key, begun) is begun:
                self._discard(key, begun)

    def _discard(self, key: int, begun: _Begun) -> None:
        try:
            if self._begun.pop(key, None) is not None:
                begun.end()
        finally:
            self._discarded.pop(key, None)
            begun.gone.set()


def limit_wanted() -> int:
    """The limit that EXECNET_START_AHEAD asks for."""
    wanted = os.environ.get("EXECNET_START_AHEAD") or "0"
    try:
        return int(wanted)
    except ValueError:
        raise ValueError(f"EXECNET_START_AHEAD needs a whole number, not {wanted!r}") from None
