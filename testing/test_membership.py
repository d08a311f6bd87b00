"""The owner of a group's ids, starts, members and ends, in thousands of interleavings."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from support.interleaving import Turns

from execnet._group import membership
from execnet._group.membership import Membership, Place

SHORT, LONG = 1500, 100_000
WORLDS = LONG if os.environ.get("EXECNET_CHAOS") == "long" else SHORT
NAMES = ["a", "b", "gw0", "gw1"]


class Member:
    """A gateway, as far as its membership goes."""

    def __init__(self, id: str) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"<{self.id}>"


class World:
    """A few threads that start, register and end gateways of one group, and signal handlers that do as well."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.membership = Membership()
        self.entered: list[Member] = []
        self.left: list[Member] = []
        self.gone: list[Member] = []
        self.numbers: list[str] = []
        self.handlers = self.dice.randrange(3)
        self.turns = Turns(membership.__file__, self.dice, self.between)

    def run(self) -> int:
        """Run, and check what is left; the number of changes between threads."""
        if self.dice.random() < 0.3:  # as tests do
            self.entered.append(Member("by hand"))
            self.membership.members.append(self.entered[0])
        plans = [
            self.dice.choices(self.actions(), k=self.dice.randrange(1, 4)) for _ in range(self.dice.choice([2, 2, 3]))
        ]
        self.turns.run([lambda plan=plan: [action() for action in plan] for plan in plans])  # type: ignore[misc]
        self.check_end()
        return self.turns.switches

    def actions(self) -> list[Any]:
        return [self.start, self.start, self.register, self.exit_one, self.end_one, self.terminate]

    def between(self) -> None:
        """At any moment: see that all is well, and perhaps be a signal handler."""
        ids = [member.id for member in list(self.membership.members)]
        assert len(ids) == len(set(ids)), ids
        assert not set(self.gone) & set(self.membership.members), "somebody came back"
        if self.handlers and self.dice.random() < 0.05:
            self.handlers -= 1
            self.dice.choice(self.actions())()

    def start(self) -> None:
        place, wanted = Place(), self.dice.choice([None, None, *NAMES])
        try:
            gateway = Member(self.membership.reserve(place, wanted))
            if self.dice.random() < 0.3:
                raise OSError("did not start")
            place.gateway = gateway
            try:
                self.membership.register(gateway)
            except ValueError as error:
                raise AssertionError(f"{gateway} was reserved and can't enter") from error
            self.entered.append(gateway)
            if place.number is not None:
                self.numbers.append(gateway.id)
            if self.dice.random() < 0.2:
                raise KeyboardInterrupt
        except (OSError, ValueError):
            self.membership.forget(place)
        except KeyboardInterrupt:
            self.membership.leave(gateway)
            self.gone.append(gateway)
            self.membership.ended(gateway)
            self.membership.forget(place)

    def register(self) -> None:
        gateway = Member(self.dice.choice(NAMES))
        try:
            self.membership.register(gateway)
        except ValueError:
            return
        self.entered.append(gateway)

    def exit_one(self) -> None:
        members = list(self.membership.members)
        if members:
            gateway = self.dice.choice(members)
            self.membership.leave(gateway)
            self.left.append(gateway)

    def end_one(self) -> None:
        members = list(self.membership.members)
        if members:
            self.end([self.dice.choice(members)])

    def terminate(self) -> None:
        self.end([*list(self.membership.members), *self.membership.ending()])

    def end(self, gateways: list[Member]) -> None:
        for gateway in gateways:
            self.membership.leave(gateway)
        self.gone += gateways
        for gateway in gateways:
            self.membership.ended(gateway)

    def check_end(self) -> None:
        """Each that entered is a member or has ended, nothing else is known of anybody."""
        table = self.membership
        assert set(table.members) == set(self.entered) - set(self.left) - set(self.gone)
        by_hand = {member for member in self.entered if member.id == "by hand"}  # may be awaited twice
        assert set(table.ending()) - by_hand == set(self.left) - set(self.gone) - by_hand
        assert set(table.ending()) >= set(self.left) - set(self.gone)
        assert {place.gateway for place in table.places} <= {*table.members, *table.ending()}
        assert not table._claims and not table.starts_under_way()
        assert len(self.numbers) == len(set(self.numbers)), "an automatic id was given twice"
        for name in NAMES:
            assert table.is_free(name) == (name not in [member.id for member in table.members])


def test_no_gateway_is_lost_revived_or_doubled_in_any_interleaving() -> None:
    first = random.SystemRandom().randrange(1 << 32)
    switches = 0
    for seed in range(first, first + WORLDS):
        try:
            switches += World(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert switches > 10 * WORLDS


class TestIds:
    def test_what_was_given_back_is_given_next_lowest_first(self) -> None:
        table = Membership()
        places = [Place() for _ in range(3)]
        assert [table.reserve(place, None) for place in places] == ["gw0", "gw1", "gw2"]
        for place in (places[1], places[0]):
            table.forget(place)
        assert [table.reserve(Place(), None) for _ in range(3)] == ["gw0", "gw1", "gw3"]

    def test_what_was_given_back_and_then_taken_by_name_is_in_nobodys_way(self) -> None:
        table, place = Membership(), Place()
        table.reserve(place, None)
        table.forget(place)
        table.register(Member("gw0"))
        assert table.reserve(Place(), None) == "gw1"

    def test_an_id_that_is_starting_can_not_be_registered(self) -> None:
        table = Membership()
        table.reserve(Place(), "a")
        with pytest.raises(ValueError, match="'a'"):
            table.register(Member("a"))
        assert (table.members, table.ending()) == ([], [])

    def test_the_id_of_one_that_is_ending_is_free(self) -> None:
        table, old, new = Membership(), Member("a"), Member("a")
        table.register(old)
        table.leave(old)
        table.register(new)
        assert (table.members, table.ending()) == ([new], [old])
        table.ended(old)
        assert (table.members, table.ending()) == ([new], [])


class TestStates:
    def test_a_gateway_is_starting_then_a_member_then_ending_then_unknown(self) -> None:
        table, place, gateway = Membership(), Place(), Member("a")
        table.reserve(place, "a")
        place.gateway = gateway
        assert (table.members, table.ending(), table.starts_under_way()) == ([], [], True)
        table.register(gateway)
        assert (table.members, table.ending(), table.starts_under_way()) == ([gateway], [], False)
        table.leave(gateway)
        assert (table.members, table.ending()) == ([], [gateway])
        table.ended(gateway)
        assert (table.members, table.ending(), table.places) == ([], [], {})

    def test_one_put_into_the_list_by_hand_ends_as_the_others_do(self) -> None:
        table, gateway = Membership(), Member("a")
        table.members.append(gateway)
        table.leave(gateway)
        assert table.ending() == [gateway]
        table.ended(gateway)
        assert table.ending() == []

    def test_one_that_never_was_a_member_can_not_leave(self) -> None:
        table = Membership()
        table.leave(Member("a"))
        assert table.ending() == []
