"""An audit log is followed from key to key; a change that is not right is the entry that is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from admin_keys import NEW, OLD, THIEF, THIRD, changed, told
from aggregator.auditlog import REPLACED, BadEntry, Entry, Signers, checked
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading, WrongAdminKey
from databases import run
from medveil.messages import sign_hand_over

# ---- what verify says about a change of key


@pytest.fixture
def begun() -> list[Entry]:
    """Three entries of the first key."""
    log = [told(OLD, None)]
    for _ in range(2):
        log.append(told(OLD, log[-1]))
    return log


def passed(log: list[Entry]) -> bytes:
    """Check a log; the key that signs at its end."""
    signers = Signers(OLD.public_key)
    assert list(checked(log, signers)) == log
    return signers.present


def test_verify_follows_the_chain_of_keys(begun: list[Entry]) -> None:
    log = [*begun, changed(begun[-1], OLD, NEW)]
    log.append(told(NEW, log[-1]))
    assert passed(log) == NEW.public_key
    log.append(changed(log[-1], NEW, THIRD))
    log.append(told(THIRD, log[-1]))
    assert passed(log) == THIRD.public_key


def elsewhere(number: int) -> bytes:
    """The old key's word in another log, where an entry of this number hands over too."""
    return sign_hand_over(OLD, number, bytes(range(32)), NEW.public_key)


BAD: dict[str, tuple[Callable[[Entry], Entry], str]] = {
    "the old signature is missing": (
        lambda e: changed(e, OLD, NEW, word=""),
        "the old admin key has not signed this hand-over",
    ),
    "the old signature is somebody else's": (
        lambda e: changed(e, OLD, NEW, word=sign_hand_over(THIEF, 4, e.hash, NEW.public_key).hex()),
        "the old admin key has not signed this hand-over",
    ),
    "the old signature is for another key": (
        lambda e: changed(e, OLD, NEW, word=sign_hand_over(OLD, 4, e.hash, THIEF.public_key).hex()),
        "the old admin key has not signed this hand-over",
    ),
    "the old signature is for another number": (
        lambda e: changed(e, OLD, NEW, word=sign_hand_over(OLD, 5, e.hash, NEW.public_key).hex()),
        "the old admin key has not signed this hand-over",
    ),
    "the old signature was given in another log": (
        lambda e: changed(e, OLD, NEW, word=elsewhere(4).hex()),
        "the old admin key has not signed this hand-over",
    ),
    "nobody has shown to have the new key": (
        lambda e: changed(e, OLD, NEW, signer=OLD),
        "it is not signed by the new admin key",
    ),
    "a link is skipped": (
        lambda e: changed(e, NEW, THIRD),
        "it takes over from another admin key",
    ),
    "it hands over to itself": (
        lambda e: changed(e, OLD, OLD),
        "goes back to an admin key that was in use before",
    ),
    "it names no keys": (
        lambda e: changed(e, OLD, NEW, new="zz"),
        "names none",
    ),
    "it takes the place of a third key": (
        lambda e: told(
            NEW, e, action=REPLACED, details={"old": THIEF.public_key.hex(), "new": NEW.public_key.hex()}
        ),
        "it takes over from another admin key",
    ),
    "another key goes on without a word": (lambda e: told(NEW, e), "it is not signed by the admin key"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_change_of_key_that_is_not_right_is_named(begun: list[Entry], case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(BadEntry, match=words) as caught:
        passed([*begun, make(begun[-1])])
    assert caught.value.number == 4


def test_a_retired_key_signs_nothing_any_more_and_does_not_come_back(begun: list[Entry]) -> None:
    log = [*begun, changed(begun[-1], OLD, NEW)]
    with pytest.raises(BadEntry, match="not signed by the admin key") as caught:
        passed([*log, told(OLD, log[-1])])
    assert caught.value.number == 5
    with pytest.raises(BadEntry, match="in use before") as caught:
        passed([*log, changed(log[-1], NEW, OLD)])
    assert caught.value.number == 5


def test_a_hand_over_cannot_be_moved_to_another_place_of_its_log(begun: list[Entry]) -> None:
    word = changed(begun[-1], OLD, NEW).details["word"]
    later = [*begun, told(OLD, begun[-1])]
    with pytest.raises(BadEntry, match="has not signed this hand-over") as caught:
        passed([*later, changed(later[-1], OLD, NEW, word=word)])
    assert caught.value.number == 5


# ---- the store, on both databases


def test_a_new_key_signs_from_one_entry_on_and_nothing_else_changes(where: Path | str) -> None:
    store = Store(where, OLD)
    store.register.add_token("token", name="x", role="hospital", expires=1.0)
    before = store.transactions.head
    number = store.log.change_admin_key(NEW)
    assert number == before.number + 1
    after = store.transactions.head
    assert store.log.verify([before, after]) == after  # heads of either age
    store.close()
    again = Store(where, NEW)
    assert again.transactions.lead()
    again.log.change_admin_key(THIRD)
    again.log.verify([before, after])
    assert [(s.old_key, s.new_key) for s in again.log.succession()] == [
        (OLD.public_key, NEW.public_key),
        (NEW.public_key, THIRD.public_key),
    ]
    for step in again.log.succession():
        step.check()
        assert {e.number: e.hash for e in again.log.entries()}[step.number] == step.hash
    again.register.add_token("another", name="x", role="hospital", expires=1.0)  # it still leads
    again.close()


def test_whoever_opened_the_database_before_cannot_write_with_the_old_key(where: Path | str) -> None:
    leader, beside, admin = Store(where, OLD), Store(where, OLD), Store(where, OLD)
    assert leader.transactions.lead()
    beside.register.add_token("token", name="x", role="hospital", expires=1.0)
    admin.log.change_admin_key(NEW)
    with pytest.raises(WrongAdminKey):
        beside.register.add_token("late", name="x", role="hospital", expires=1.0)
    with pytest.raises(NotLeading):
        leader.register.add_token("late", name="x", role="hospital", expires=1.0)
    with pytest.raises(WrongAdminKey):
        beside.transactions.lead()
    with pytest.raises(WrongAdminKey):
        beside.log.change_admin_key(THIEF)
    with pytest.raises(WrongAdminKey):
        admin.log.change_admin_key(THIRD, replaced=THIEF.public_key)
    admin.log.verify()
    if not isinstance(where, Path):  # no head under a key that is not its own is handed out
        with pytest.raises(NotLeading):
            leader.transactions.witnessed()
    for one in (leader, beside, admin):
        one.close()


def test_after_a_replacement_the_hospitals_are_shown_only_what_came_later(where: Path | str) -> None:
    store = Store(where, OLD)
    store.log.change_admin_key(NEW)
    store.log.change_admin_key(THIRD, replaced=NEW.public_key)
    assert store.log.succession() == ()
    store.log.change_admin_key(THIEF)
    assert [s.old_key for s in store.log.succession()] == [THIRD.public_key]
    assert [bool(c.word) for c in store.log.key_changes()] == [True, False, True]
    store.log.verify()
    store.close()


@pytest.mark.parametrize("detail", ["old", "new", "word"])
@pytest.mark.parametrize("link", ["first", "second"])
def test_an_edited_hand_over_is_the_entry_that_is_named(folder: Path, detail: str, link: str) -> None:
    file = folder / "aggregator.db"
    store = Store(file, OLD)
    number = store.log.change_admin_key(NEW)
    if link == "second":
        number = store.log.change_admin_key(THIRD)
    for wrong in (THIEF.public_key.hex(), "zz"):
        run(
            file,
            f"UPDATE audit SET details = json_set(details, '$.{detail}', '{wrong}') WHERE number = {number}",
        )
        with pytest.raises(BadEntry, match="its content is not what its hash says") as caught:
            store.log.verify()
        assert caught.value.number == number
    store.close()
