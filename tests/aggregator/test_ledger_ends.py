"""The aggregator keeps where each hospital's privacy ledger ended, and refuses to hear of an older one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from door import Door
from medveil.messages import LedgerEnd, PlanOffers, sign_ledger_end
from world import World

Build = Callable[..., World]


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    opened = Door(build())
    yield opened
    opened.service.close()


def end(door: Door, number: int, *, count: int = 0, mark: bytes = bytes(32), index: int = 1) -> LedgerEnd:
    return sign_ledger_end(door.hospital(index), count, number, mark)


def poll(door: Door, told: object, index: int = 1) -> int:
    return door.ask(door.hospital(index), "GET", f"{door.at}/work?ledger={told}").status_code


def offered(door: Door, index: int = 1) -> LedgerEnd | None:
    return PlanOffers.from_bytes(door.ask(door.hospital(index), "GET", "/v1/plans").content).ledger


def entries(door: Door) -> list[str]:
    return [str(e.details["head"]) for e in door.world.store.log.entries() if e.action == "ledger.noted"]


def test_an_end_comes_with_a_poll_and_is_in_the_audit_log_and_in_the_offers(door: Door) -> None:
    assert offered(door) is None
    for number in (2, 5):
        assert poll(door, end(door, number)) == 200
        assert offered(door) == end(door, number)
    assert entries(door) == [f"0.2.{'00' * 32}", f"0.5.{'00' * 32}"]
    assert offered(door, 2) is None
    door.world.store.log.verify()


def test_a_repeat_changes_nothing(door: Door) -> None:
    poll(door, end(door, 2))
    before = door.world.dump()
    assert poll(door, end(door, 2)) == 200
    door.world.restart()
    again = Door(door.world)
    assert poll(again, end(door, 2)) == 200
    again.service.close()
    assert len(before[0]) == len(door.world.dump()[0])


def test_an_older_end_and_another_one_of_the_same_place_are_refused_by_name(door: Door) -> None:
    poll(door, end(door, 5))
    for told in (end(door, 4), end(door, 5, mark=b"x" * 32)):
        found = door.ask(door.hospital(), "GET", f"{door.at}/work?ledger={told}")
        door.refused(found, 409, "ledger-behind")
    assert offered(door) == end(door, 5)
    assert poll(door, end(door, 3, count=1)) == 200  # the operator has gone on from an older copy
    assert poll(door, end(door, 9)) == 409


def test_an_end_that_its_hospital_has_not_signed_is_refused(door: Door) -> None:
    found = door.ask(door.hospital(), "GET", f"{door.at}/work?ledger={end(door, 2, index=2)}")
    door.refused(found, 401, "bad-signature")
    assert entries(door) == []


@pytest.mark.parametrize(
    "text", ["x", "1.2", "01.2." + "0" * 64 + "." + "0" * 128, "0.0." + "0" * 64 + "." + "0" * 128]
)
def test_what_is_no_end_is_refused(door: Door, text: str) -> None:
    assert poll(door, text) == 422
    assert entries(door) == []


def test_an_end_comes_with_a_message_before_the_message_is_taken(door: Door) -> None:
    poll(door, end(door, 5))
    path = f"{door.at}/rounds/1/attempts/1/advertise?ledger={end(door, 4)}"
    door.refused(door.ask(door.hospital(), "POST", path, b"nothing"), 409, "ledger-behind")
