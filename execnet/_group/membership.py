"""What belongs to a group: ids, starts under way, members, gateways that are ending.

States, of an id: it is *taken* (a member has it), *starting* (a start under way has claimed it), or *free*.
Of a gateway, from before its first process until that is reaped: it is *starting*, *a member* or *ending*.

Invariants:

- An id is claimed by at most one place, and two members never have the same one.
- A place is in `places` from before there is anything to end until nothing is left to end, and is put there once.
- A gateway whose process may live is in exactly one state, because the state is not stored but read off: it is a member
  if it is in `members`, else ending if its place was `entered`, else starting. So each change is one step:
  entering is the append to `members`, leaving the removal from it, the end the removal from `places`.
- `members` is appended to and removed from, never written anew but in a forked child: nobody comes back, nobody gets
  lost.

There is no lock. A signal handler may interrupt the main thread between any two steps and end the whole group, for
which other threads have to change what is here: with a lock they would wait for the thread that waits for them.
Instead every step is one call of a list's or dict's own method, which no other thread and no handler sees half done
(`dict.setdefault` claims an id, `set.remove` and `next` of a counter win a number), and the steps are in
such an order that whoever looks in between sees a state of the ones above. Reserving, entering and forgetting a place
are for the one thread at a time that starts its gateway; all else is for everyone, at any moment.
"""

from __future__ import annotations

import itertools
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AUTOMATIC = "gw"


class IdTaken(AssertionError, ValueError):
    """A gateway of this id is there or being started: an AssertionError, too, as programs for execnet 2.1 know it."""

    def __init__(self, gateway_id: str) -> None:
        super().__init__(f"already have gateway with id {gateway_id!r}")


class Place:
    """What one gateway holds in its group."""

    def __init__(self) -> None:
        self.id: str | None = None
        #: The number of an automatic id, which goes back if the gateway never becomes a member.
        self.number: int | None = None
        self.gateway: Any = None
        self.entered = False


class Membership:
    """The gateways of a group in order, and those on their way in and out."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a forked child: the gateways, and the starts, are the parent's.

        New tables, for without a GIL a thread that is not there may have locked the old ones.
        """
        #: The list that is the group's `_gateways`: programs read it, tests change it.
        self.members: list[Any] = []
        # In order of arrival; the values mean nothing.
        self.places: dict[Place, None] = {}
        self._claims: dict[str, Place] = {}
        self._given_back: set[int] = set()

    # -- looking

    def taken(self, gateway_id: str) -> bool:
        """Whether a member has the id."""
        return any(gateway.id == gateway_id for gateway in list(self.members))

    def is_free(self, gateway_id: str) -> bool:
        """Whether the id is neither taken nor starting."""
        # In the order in which an id goes on its way, so that it is seen in one of the two.
        return gateway_id not in self._claims and not self.taken(gateway_id)

    def ending(self) -> list[Any]:
        """The gateways that have left and are not known to have ended."""
        left = [place.gateway for place in list(self.places) if place.entered]
        return [gateway for gateway in left if gateway not in self.members]

    def starts_under_way(self) -> bool:
        """Whether there are places that no gateway has entered."""
        return any(not place.entered for place in list(self.places))

    # -- ids

    def new_id(self, place: Place | None = None) -> str:
        """An automatic id, given to nobody else; its number is noted in ``place``.

        Raises IdTaken where somebody has named a gateway so. What was given back is passed over then, so that it
        is in nobody's way.
        """
        for number in sorted(self._given_back):
            gateway_id = f"{AUTOMATIC}{number}"
            with suppress(KeyError):  # another thread was faster
                self._given_back.remove(number)
                if self.is_free(gateway_id):
                    return self._noted(number, gateway_id, place)
        number = next(self._numbers)
        gateway_id = f"{AUTOMATIC}{number}"
        self.check_free(gateway_id)
        return self._noted(number, gateway_id, place)

    def _noted(self, number: int, gateway_id: str, place: Place | None) -> str:
        if place is not None:
            place.number = number
        return gateway_id

    def check_free(self, gateway_id: str) -> None:
        """Raise IdTaken unless the id is free."""
        if not self.is_free(gateway_id):
            raise IdTaken(gateway_id)

    # -- places

    def reserve(self, place: Place, wanted: str | None) -> str:
        """Claim the id for ``place``, an automatic one for None; IdTaken where it is not free.

        Whatever exception comes, :meth:`forget` takes all of it back.
        """
        assert place not in self.places and not place.entered, "a place is reserved once"
        self.places[place] = None
        gateway_id = self.new_id(place) if wanted is None else wanted
        if not self._claim(gateway_id, place):
            raise IdTaken(gateway_id)
        return gateway_id

    def _claim(self, gateway_id: str, place: Place) -> bool:
        place.id = gateway_id
        if self._claims.setdefault(gateway_id, place) is not place:
            return False
        # Only the one that has the claim can become a member of this id, so that the answer holds.
        if not self.taken(gateway_id):
            return True
        self._unclaim(place)
        return False

    def _unclaim(self, place: Place) -> None:
        if place.id is not None and self._claims.get(place.id) is place:
            del self._claims[place.id]

    def register(self, gateway: Any) -> None:
        """Make the gateway the last member, at the place reserved for it, if any; IdTaken unless its id is free."""
        place = self._place_of(gateway)
        if place is not None and not place.entered:
            self._enter(place, gateway)
            return
        place = Place()
        try:
            self.reserve(place, gateway.id)
            self._enter(place, gateway)
        except BaseException:
            self.forget(place)
            raise

    def _enter(self, place: Place, gateway: Any) -> None:
        assert place in self.places and not place.entered, "whoever enters has reserved a place, and enters once"
        if self._claims.get(gateway.id) is not place or self.taken(gateway.id):
            raise IdTaken(gateway.id)
        place.gateway = gateway
        self.members.append(gateway)
        place.entered = True
        self._unclaim(place)

    def forget(self, place: Place) -> None:
        """Take back all that a place has, of a gateway that has ended or never was; may be called again."""
        if place.gateway is not None:
            with suppress(ValueError):  # it never was a member, or no longer is
                self.members.remove(place.gateway)
        self._unclaim(place)
        if place.number is not None and not place.entered:
            self._given_back.add(place.number)
            place.number = None
        self.places.pop(place, None)

    # -- leaving

    def leave(self, gateway: Any) -> None:
        """A member is ending from now on; nothing for others."""
        # In this order: a member has had a place all along, unless it was put into the list by hand. For such a one,
        # which two threads let go of at once, the place may be a second one: its end is awaited twice.
        known = self._place_of(gateway) is not None
        if gateway not in self.members:
            return
        if not known:
            place = Place()
            place.gateway, place.entered = gateway, True
            self.places[place] = None
        with suppress(ValueError):  # another thread was faster
            self.members.remove(gateway)

    def ended(self, gateway: Any) -> None:
        """Nothing is left of a gateway that was ending; may be called again."""
        if gateway not in self.members:
            for place in list(self.places):
                if place.gateway is gateway:
                    self.places.pop(place, None)

    def _place_of(self, gateway: Any) -> Place | None:
        return next((place for place in list(self.places) if place.gateway is gateway), None)
