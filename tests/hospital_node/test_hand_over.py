"""A node follows the admin key from a pinned one to the next: forward only, and by its word only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from audit_heads import hand_over, head_at, head_of, signed_by
from hospital_node import cli
from hospital_node.audit_witness import (
    AuditForked,
    AuditKeyChanged,
    AuditRolledBack,
    AuditWitness,
    NotAccepted,
)
from hospital_node.governance import PlanRefused, read_offer
from hospital_node.journal import Journal
from hospital_node.plan_queue import PlanQueue
from hospital_node.records import Records
from hospital_node.seen_heads import SeenHead
from hospital_node.settings import Node
from lines import Line, follow, make_agent, make_node
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.messages import AuditHead, HandOver, PlanOffer, PlanOffers, Work
from medveil.plan import Plan, sign_approval
from medveil.rounds import AttemptKey
from world import World, make_plan, make_sites, make_study

FIRST, SECOND, THIRD, THIEF = (Identity.generate("admin") for _ in range(4))
TO_SECOND = hand_over(FIRST, SECOND, 12)
TO_THIRD = hand_over(SECOND, THIRD, 20)
BOTH = (TO_SECOND, TO_THIRD)
PLAN = "ab" * 32
Build = Callable[..., World]


@pytest.fixture
def witness(journal: Journal) -> AuditWitness:
    """Has taken heads 5 to 9 of the first key, 9 in memory only."""
    made = AuditWitness(journal, lambda: 1_700_000_000.0)
    made.take(head_of(FIRST, 5))
    made.take(head_of(FIRST, 8), AttemptKey(PLAN, 1, 1))
    made.take(head_of(FIRST, 9), AttemptKey(PLAN, 1, 1))
    return made


def kept(journal: Journal) -> list[tuple[str, int]]:
    return [(row.kind, row.number) for row in journal.heads.all()]


def steps(journal: Journal) -> list[HandOver]:
    """The hand-overs that were followed, with both signatures."""
    rows = [row for row in journal.heads.all() if row.kind == "handed-over"]
    return [HandOver.from_bytes(bytes.fromhex(row.about)) for row in rows]


def shown(node: Node, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["heads", *options, "--folder", str(node.folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_node_follows_a_hand_over_by_itself_keeps_it_logs_it_and_shows_it(
    witness: AuditWitness, journal: Journal, node: Node
) -> None:
    with capture_logs() as logs:
        witness.take(head_of(SECOND, 13, succession=(TO_SECOND,)), AttemptKey(PLAN, 1, 1))
    old, new = fingerprint(FIRST.public_key), fingerprint(SECOND.public_key)
    assert [(e["event"], e["reason"]) for e in logs] == [
        ("admin-key.followed", f"entry 12: {old} handed over to {new}")
    ]
    assert witness.key == SECOND.public_key
    assert ("handed-over", 12) in kept(journal)
    assert steps(journal) == [TO_SECOND]  # the proof, for whoever doubts it later
    code, text = shown(node, "--export", str(node.folder / "heads.json"))
    assert code == 0
    assert f"{old} handed over to {new} at entry 12" in text
    assert f"admin key    fingerprint {new}" in text
    assert '"handed-over"' in (node.folder / "heads.json").read_text()
    witness.take(head_of(SECOND, 14, succession=(TO_SECOND,)), AttemptKey(PLAN, 2, 1))
    witness.check_alarm()


def test_the_entry_of_the_hand_over_may_itself_be_the_newest(witness: AuditWitness, journal: Journal) -> None:
    witness.take(head_at(TO_SECOND))
    witness.take(head_at(TO_SECOND))
    assert kept(journal)[-1] == ("handed-over", 12)
    assert AuditWitness(journal).key == SECOND.public_key


def test_a_node_that_slept_through_two_hand_overs_catches_up_and_older_ones_do_not_confuse_it(
    witness: AuditWitness, journal: Journal
) -> None:
    before = hand_over(THIEF, FIRST, 2)  # from before this node was set up
    witness.take(head_of(THIRD, 33, succession=(before, *BOTH)))
    assert [row for row in kept(journal) if row[0] == "handed-over"] == [
        ("handed-over", 12),
        ("handed-over", 20),
    ]
    assert AuditWitness(journal).key == THIRD.public_key
    witness.check_alarm()


def test_a_node_that_died_between_two_steps_goes_on_with_the_next(
    witness: AuditWitness, journal: Journal
) -> None:
    witness.settle()
    journal.heads.keep(witness._handed_over(TO_SECOND))  # as far as it came
    again = AuditWitness(journal)
    again.take(head_of(THIRD, 33, succession=BOTH))
    assert [row for row in kept(journal) if row[0] == "handed-over"] == [
        ("handed-over", 12),
        ("handed-over", 20),
    ]
    assert again.key == THIRD.public_key


def forged(**changes: Any) -> HandOver:
    """The first hand-over, altered, with the new key's signature made again."""
    return signed_by(SECOND, TO_SECOND.model_copy(update=changes))


AT_13 = {"number": 13}
REFUSED: dict[str, tuple[Callable[[], AuditHead], type[RemoteProtocolError], str]] = {
    "no hand-over at all": (lambda: head_of(SECOND, 13), AuditKeyChanged, "no hand-over leads"),
    "a truncated succession": (
        lambda: head_of(THIRD, 33, succession=(TO_SECOND,)),
        AuditKeyChanged,
        "no hand-over leads",
    ),
    "a succession without its first link": (
        lambda: head_of(THIRD, 33, succession=(TO_THIRD,)),
        AuditKeyChanged,
        "no hand-over leads",
    ),
    "a skipped link": (
        lambda: head_of(THIEF, 33, succession=(TO_SECOND, hand_over(THIRD, THIEF, 30))),
        AuditKeyChanged,
        "before entry 30 is missing",
    ),
    "no word of the old key": (
        lambda: head_of(SECOND, 13, succession=(forged(word=bytes(64)),)),
        AuditKeyChanged,
        "at entry 12 is not signed",
    ),
    "a word of somebody else": (
        lambda: head_of(SECOND, 13, succession=(forged(word=hand_over(THIEF, SECOND, 12).word),)),
        AuditKeyChanged,
        "at entry 12 is not signed",
    ),
    "a word for another key": (
        lambda: head_of(SECOND, 13, succession=(forged(word=hand_over(FIRST, THIEF, 12).word),)),
        AuditKeyChanged,
        "at entry 12 is not signed",
    ),
    "a word for another number": (
        lambda: head_of(SECOND, 14, succession=(forged(number=13),)),
        AuditKeyChanged,
        "at entry 13 is not signed",
    ),
    "a word for another log": (
        lambda: head_of(
            SECOND, 13, succession=(forged(previous=hand_over(FIRST, SECOND, 12, "other").previous),)
        ),
        AuditKeyChanged,
        "at entry 12 is not signed",
    ),
    "a new key that nobody has": (
        lambda: head_of(SECOND, 13, succession=(TO_SECOND.model_copy(update={"signature": bytes(64)}),)),
        AuditKeyChanged,
        "at entry 12 is not signed",
    ),
    "a hand-over to a third key than the one that signs": (
        lambda: head_of(THIEF, 13, succession=(TO_SECOND,)),
        AuditKeyChanged,
        "no hand-over leads",
    ),
    "a hand-over at an entry that was seen under the old key": (
        lambda: head_of(SECOND, 13, succession=(hand_over(FIRST, SECOND, 9),)),
        AuditForked,
        "another entry 9",
    ),
    "a hand-over long before an entry that was seen under the old key": (
        lambda: head_of(SECOND, 13, succession=(hand_over(FIRST, SECOND, 7),)),
        AuditForked,
        "another entry 9",
    ),
    "a hand-over behind another entry than the one that was seen": (
        lambda: head_of(SECOND, 13, succession=(hand_over(FIRST, SECOND, 10, "fork"),)),
        AuditForked,
        "another entry 9",
    ),
    "two hand-overs in the wrong order": (
        lambda: head_of(THIRD, 33, succession=(TO_SECOND, hand_over(SECOND, THIRD, 11))),
        AuditForked,
        "another entry 12",
    ),
    "a log that ends before its hand-over": (
        lambda: head_of(SECOND, 11, succession=(TO_SECOND,)),
        AuditRolledBack,
        "ends at entry 11",
    ),
    "another entry at the hand-over's number": (
        lambda: head_of(SECOND, 12, succession=(TO_SECOND,)),
        AuditForked,
        "another entry 12",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_succession_moves_nothing_and_raises_an_alarm(
    witness: AuditWitness, journal: Journal, case: str
) -> None:
    make, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        witness.take(make())
    assert AuditWitness(journal).key == FIRST.public_key
    assert kept(journal)[-2:] == [("newest", 9), ("refused", make().number)]


def test_the_pin_never_goes_back(witness: AuditWitness, journal: Journal) -> None:
    witness.take(head_of(SECOND, 13, succession=(TO_SECOND,)))
    back = hand_over(SECOND, FIRST, 20)  # even with a word: a key that was retired may be in wrong hands
    with pytest.raises(AuditKeyChanged, match="goes back to a key from before"):
        witness.take(head_of(FIRST, 33, succession=(TO_SECOND, back)))
    witness.accept(str(head_of(SECOND, 13)), new_key=fingerprint(SECOND.public_key))
    with pytest.raises(AuditKeyChanged, match="no hand-over leads"):
        AuditWitness(journal).take(head_of(FIRST, 14))
    assert AuditWitness(journal).key == SECOND.public_key


def offer_by(admin: Identity, plan: Plan) -> PlanOffer:
    signature = admin.sign("create-plan", plan.hash)
    return PlanOffer(
        plan=plan.model_dump_json(), admin_key=admin.public_key, admin_signature=signature, approvals={}
    )


def test_an_offer_signed_with_a_retired_key_is_refused_once_the_hand_over_was_seen(
    witness: AuditWitness,
) -> None:
    plan = make_plan([Identity.generate(f"hospital-{i}") for i in (1, 2, 3)], make_study())
    assert read_offer(offer_by(FIRST, plan), witness.key) == plan
    witness.take(head_of(SECOND, 13, succession=(TO_SECOND,)))
    assert read_offer(offer_by(SECOND, plan), witness.key) == plan
    with pytest.raises(PlanRefused, match="another admin key"):
        read_offer(offer_by(FIRST, plan), witness.key)


def test_a_command_reads_offers_of_the_next_key_and_keeps_nothing(
    witness: AuditWitness, journal: Journal, node: Node
) -> None:
    """Between two polls of the running node it must not take a head: they would cross."""
    before = kept(journal)
    assert witness.key_after(head_of(FIRST, 30)) == FIRST.public_key
    assert witness.key_after(head_of(SECOND, 13, succession=(TO_SECOND,))) == SECOND.public_key
    assert witness.key_after(None) == FIRST.public_key
    with pytest.raises(AuditKeyChanged):
        witness.key_after(head_of(SECOND, 13))
    assert kept(journal) == before
    fresh = Journal(node.folder / "fresh.db")
    assert AuditWitness(fresh).key_after(head_of(SECOND, 13)) is None
    fresh.close()


# ---- a key that was lost or stolen: nobody hands over, the operators decide


def test_without_a_hand_over_the_operator_pins_the_new_key_by_its_fingerprint(
    witness: AuditWitness, journal: Journal
) -> None:
    with pytest.raises(AuditKeyChanged):
        witness.take(head_of(SECOND, 13))
    witness.accept(str(head_of(SECOND, 12)), new_key=fingerprint(SECOND.public_key).lower())
    assert witness.key == SECOND.public_key
    witness.take(head_of(SECOND, 13))
    witness.check_alarm()
    old, new = fingerprint(FIRST.public_key), fingerprint(SECOND.public_key)
    assert [words for _, words in witness.key_history()] == [
        f"{old} pinned with the first answer",
        f"{new} from entry 12 on, by the operator's word",
    ]
    for thief in (head_of(FIRST, 14), head_of(THIEF, 14, succession=(hand_over(FIRST, THIEF, 14),))):
        with pytest.raises(AuditKeyChanged):  # whatever the stolen key signs now
            AuditWitness(journal).take(thief)
        witness.accept(str(head_of(SECOND, 13)), new_key=fingerprint(SECOND.public_key))


def test_the_operator_may_pin_the_new_key_before_this_node_has_seen_it(
    witness: AuditWitness, journal: Journal, node: Node
) -> None:
    """The telephone may be faster than the aggregator, or than the thief."""
    new = fingerprint(SECOND.public_key)
    code, text = shown(node, "--accept", str(head_of(SECOND, 12)), "--new-key", new)
    assert (code, f"{new}   (accepted, not seen yet)" in text) == (0, True)
    plan = make_plan([Identity.generate(f"hospital-{i}") for i in (1, 2, 3)], make_study())
    for admin in (FIRST, THIEF):  # until then no plan is looked at
        with pytest.raises(PlanRefused, match="another admin key"):
            read_offer(offer_by(admin, plan), AuditWitness(journal).key)
        assert AuditWitness(journal).key_after(head_of(admin, 13)) == b""
    assert AuditWitness(journal).key_after(head_of(SECOND, 13)) == SECOND.public_key
    witness.take(head_of(SECOND, 13), AttemptKey(PLAN, 1, 1))
    assert AuditWitness(journal).key == SECOND.public_key
    assert "not seen yet" not in shown(node)[1]


def test_the_accepted_head_alone_is_enough_to_pin_the_key(witness: AuditWitness, journal: Journal) -> None:
    witness.accept(str(head_of(SECOND, 12)), new_key=fingerprint(SECOND.public_key))
    witness.take(head_of(SECOND, 12))
    assert AuditWitness(journal).key == SECOND.public_key


def test_an_accepted_key_that_has_handed_over_meanwhile_is_followed(
    witness: AuditWitness, journal: Journal
) -> None:
    witness.accept(str(head_of(SECOND, 13)), new_key=fingerprint(SECOND.public_key))
    witness.take(head_of(THIRD, 33, succession=(TO_THIRD,)))
    assert AuditWitness(journal).key == THIRD.public_key


@pytest.mark.parametrize("admin", [FIRST, THIEF], ids=["the old key", "a third key"])
def test_another_key_than_the_accepted_one_is_an_alarm(witness: AuditWitness, admin: Identity) -> None:
    witness.accept(str(head_of(SECOND, 12)), new_key=fingerprint(SECOND.public_key))
    with pytest.raises(AuditKeyChanged, match=fingerprint(SECOND.public_key)):
        witness.take(head_of(admin, 13))


def test_after_a_wrong_alarm_the_operator_may_stay_with_the_pinned_key(
    witness: AuditWitness, journal: Journal
) -> None:
    """Another machine answered for a while; nothing is wrong with the key."""
    with pytest.raises(AuditKeyChanged):
        witness.take(head_of(THIEF, 40))
    witness.accept(str(head_of(FIRST, 9)), new_key=fingerprint(FIRST.public_key))
    witness.take(head_of(FIRST, 10))
    assert AuditWitness(journal).key == FIRST.public_key


@pytest.mark.parametrize(
    "wrong", ["x", "1234", "12345678ABCDEF00", "GGGG-1234-1234-1234", "1234-5678-ABCD-EF00"]
)
def test_what_is_no_fingerprint_is_not_accepted(witness: AuditWitness, wrong: str) -> None:
    with pytest.raises(NotAccepted, match="form"):
        witness.accept(str(head_of(SECOND, 12)), new_key=wrong)


def test_a_head_accepted_after_a_restore_may_lie_behind_a_hand_over(
    witness: AuditWitness, journal: Journal
) -> None:
    """Restored, then a new key, then the telephone: the head that is read out is signed by the new key."""
    with pytest.raises(AuditRolledBack):
        witness.take(head_of(FIRST, 4, "restored"))
    step = hand_over(FIRST, SECOND, 6, "restored")
    newest = head_of(SECOND, 8, "restored", (step,))
    witness.accept(str(newest))
    witness.take(newest)
    assert AuditWitness(journal).key == SECOND.public_key
    with pytest.raises(AuditRolledBack):
        witness.take(head_of(SECOND, 7, "restored", (step,)))


# ---- a whole study, with the real coordinator and the real agent


def rotate(world: World, *, hand_over: bool = True) -> None:
    """The admin stops the aggregator, changes the key, and starts it again."""
    new = Identity.generate("admin")
    world.store.log.change_admin_key(new, replaced=None if hand_over else world.admin.public_key)
    world.admin = new
    world.restart()


def test_a_running_plan_goes_on_through_two_hand_overs_and_no_operator_does_anything(build: Build) -> None:
    world = build()
    line = Line(world, make_sites(world)[1:], "hospital-1")
    polls = [0]

    def change(work: Work) -> Work:
        polls[0] += 1
        if polls[0] in (3, 11):  # in the middle of an attempt, and of a later one
            assert work.status == "running"
            rotate(world)
            return world.coordinator.instructions.work(world.plan.id, "hospital-1")
        return work

    line.lie = change
    agent, journal = make_agent(world, line)
    assert follow(agent)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3  # no attempt was lost
    assert journal.heads.alarm() is None
    assert AuditWitness(journal).key == world.admin.public_key
    assert len(steps(journal)) == 2
    world.store.log.verify()
    journal.close()


def test_a_replaced_key_stops_a_node_until_its_operator_has_typed_one_line(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hospital_node.agent.IDLE_S", 0.0)
    world = build(hospitals=4)
    line = Line(world, make_sites(world)[1:], "hospital-1")
    line.waits_for_nobody = True
    polls = [0]

    def change(work: Work) -> Work:
        polls[0] += 1
        if polls[0] == 3:
            rotate(world, hand_over=False)
            return world.coordinator.instructions.work(world.plan.id, "hospital-1")
        if work.round == 3:
            said = Journal(make_node(world, 1).journal)
            if said.heads.alarm() is not None:
                AuditWitness(said).accept(
                    str(world.store.transactions.head), new_key=fingerprint(world.admin.public_key)
                )
            said.close()
        return work

    line.lie = change
    agent, journal = make_agent(world, line)
    assert follow(agent)
    assert {number for number, _, kind, _ in line.sent if kind == "upload"} == {3}  # after the word, again
    assert journal.heads.alarm() is None
    assert AuditWitness(journal).key == world.admin.public_key
    journal.close()


class Offers:
    """What the agent asks for between two plans."""

    def __init__(self, answer: PlanOffers) -> None:
        self._answer = answer

    async def offers(self) -> PlanOffers:
        return self._answer

    def read(self, plan: Plan) -> Any:
        raise AssertionError("nothing is to be read for an approved plan that was handed in")


def test_an_approved_plan_is_offered_again_under_the_new_key_and_needs_no_new_approval(
    build: Build,
) -> None:
    world = build()
    node, identity = make_node(world, 1), world.identities[0]
    journal = Journal(node.journal)
    journal.approve(world.plan, sign_approval(world.plan, identity))
    with closing(Records.open(node, identity, journal)) as records:

        def chosen() -> Plan | None:
            line: Any = Offers(world.coordinator.instructions.offers("hospital-1"))
            queue = PlanQueue(node, identity, journal, records, line, line.read)
            ready, _ = asyncio.run(queue.next_plans())
            return ready[0] if ready else None

        assert chosen() == world.plan
        rotate(world)
        assert chosen() == world.plan
    assert AuditWitness(journal).key == world.admin.public_key
    journal.close()


def test_a_key_that_was_accepted_by_sixteen_digits_in_an_earlier_version_is_still_known(
    witness: AuditWitness, journal: Journal
) -> None:
    short = fingerprint(SECOND.public_key)[:19]
    journal.heads.keep(SeenHead("accepted", 12, head_of(SECOND, 12).hash, b"", b"", 0.0, short))
    witness.take(head_of(SECOND, 13))
    assert witness.key == SECOND.public_key
