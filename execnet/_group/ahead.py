"""Starting ahead: processes for specs that were announced, while another gateway comes up."""

from __future__ import annotations

import os

from execnet._group.starting import Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from execnet._group.starting import Home
    from execnet.xspec import XSpec


class Ahead:
    """The specs that a group has named, and the starts begun for them."""

    def __init__(self, group: Home) -> None:
        self.group = group
        #: How many starts may be waiting to be asked for.
        self.limit = limit_wanted()
        # Both by what a spec is, not by what it says; each change is one call.
        self._announced: dict[int, XSpec] = {}
        self._begun: dict[int, Start] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begun(self) -> list[Start]:
        """The starts that nobody has asked for yet."""
        return list(self._begun.values())

    def announce(self, spec: XSpec) -> None:
        """The spec will be asked for."""
        if self.limit:
            self._announced[id(spec)] = spec

    def taken(self, spec: object) -> Start | None:
        """The start begun for the spec that is asked for now, the caller's from now on."""
        self._announced.pop(id(spec), None)
        return self._begun.pop(id(spec), None)

    def begin(self) -> None:
        """Start processes, up to the limit. What can't be started is told by its own makegateway."""
        while len(self._begun) < self.limit:
            spec = self._next()
            if spec is None:
                return
            if not (spec.via or spec.socket or spec.warm or spec.preload):
                self._begin(spec)

    def _next(self) -> XSpec | None:
        for key in list(self._announced):
            spec = self._announced.pop(key, None)
            if spec is not None:
                return spec
        return None

    def _begin(self, spec: XSpec) -> None:
        try:
            start = Start(self.group, spec)
        except ValueError:
            return
        try:
            start.reserve()
            start.begin()
        except Exception:
            start.undo()
        except BaseException:
            start.undo()
            raise
        else:
            self._begun[id(spec)] = start

    def discard(self) -> None:
        """End what nobody asked for."""
        self._announced.clear()
        for key in list(self._begun):
            start = self._begun.pop(key, None)
            if start is not None:
                start.undo()

    def clear(self) -> None:
        """In a forked child: the starts are the parent's."""
        self._announced.clear()
        self._begun.clear()


def limit_wanted() -> int:
    """The limit that EXECNET_START_AHEAD asks for."""
    wanted = os.environ.get("EXECNET_START_AHEAD") or "0"
    try:
        return int(wanted)
    except ValueError:
        raise ValueError(f"EXECNET_START_AHEAD needs a whole number, not {wanted!r}") from None
