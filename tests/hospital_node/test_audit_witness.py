"""A node keeps the heads of the aggregator's audit log and refuses one that contradicts them, for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs
from typer.testing import CliRunner

from audit_heads import head_of
from hospital_node.audit_witness import (
    AuditAlarm,
    AuditForked,
    AuditKeyChanged,
    AuditRolledBack,
    AuditWithheld,
    AuditWitness,
    NotAccepted,
)
from hospital_node.cli import app
from hospital_node.journal import Journal
from hospital_node.seen_heads import SeenHead
from hospital_node.settings import Node
from lines import Line, follow, make_agent
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.messages import AuditHead, Work
from medveil.rounds import AttemptKey
from world import World, make_sites

ADMIN, OTHER = Identity.generate("admin"), Identity.generate("admin")
PLAN = "ab" * 32
Build = Callable[..., World]


@pytest.fixture
def witness(journal: Journal) -> AuditWitness:
    """Has taken heads 5 to 9; two attempts came with 6 and 8."""
    made = AuditWitness(journal, lambda: 1_700_000_000.0)
    made.take(head_of(ADMIN, 5))
    made.take(head_of(ADMIN, 6), AttemptKey(PLAN, 1, 1))
    made.take(head_of(ADMIN, 7), AttemptKey(PLAN, 1, 1))
    made.take(head_of(ADMIN, 8), AttemptKey(PLAN, 2, 1))
    made.take(head_of(ADMIN, 9), AttemptKey(PLAN, 2, 1))
    made.settle()
    return made


def kept(journal: Journal) -> list[tuple[str, int]]:
    return [(row.kind, row.number) for row in journal.heads.all()]


def test_the_first_the_newest_and_one_head_an_attempt_are_kept(
    witness: AuditWitness, journal: Journal
) -> None:
    assert kept(journal) == [("first", 5), ("attempt", 6), ("attempt", 8), ("newest", 9)]
    witness.take(head_of(ADMIN, 9))
    witness.take(head_of(ADMIN, 12))
    witness.settle()
    assert kept(journal)[2:] == [("attempt", 8), ("newest", 12)]
    assert witness.key == ADMIN.public_key
    witness.check_alarm()


def test_an_answer_that_another_one_has_overtaken_is_held_against_what_was_known_when_it_was_asked_for(
    witness: AuditWitness, journal: Journal
) -> None:
    other = AuditWitness(journal)  # as of another plan, which the same node follows
    asked = other.asked()
    witness.take(head_of(ADMIN, 12), AttemptKey(PLAN, 3, 1))
    other.take(head_of(ADMIN, 10), AttemptKey("cd" * 32, 1, 1), asked=asked)
    assert ("attempt", 10) in kept(journal)
    newest = witness.asked()
    assert newest is not None
    assert newest.number == 12
    for late, fault in ((head_of(ADMIN, 12, "fork"), AuditForked), (head_of(OTHER, 11), AuditKeyChanged)):
        with pytest.raises(fault):
            AuditWitness(journal).take(late, asked=asked)
        journal.heads.keep(SeenHead("accepted", 12, head_of(ADMIN, 12).hash, b"", ADMIN.public_key, 0.0, ""))
    with pytest.raises(AuditRolledBack):
        other.take(head_of(ADMIN, 11), asked=other.asked())


def test_messages_whose_heads_plainly_follow_cost_one_question_to_the_journal(
    witness: AuditWitness, journal: Journal
) -> None:
    """A node sends six messages a round, and the answer to each brings a head."""
    statements: list[str] = []
    attempt = AttemptKey(PLAN, 2, 1)
    witness.take(head_of(ADMIN, 10), attempt)
    sa.event.listen(journal.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    for number in range(11, 17):
        asked = witness.asked()
        witness.take(head_of(ADMIN, number), attempt, asked=asked)
        assert asked is not None
        assert asked.number == number - 1
    assert len(statements) == 1
    journal.heads.keep(SeenHead("accepted", 3, head_of(ADMIN, 3).hash, b"", ADMIN.public_key, 0.0, ""))
    newest = witness.asked()
    assert newest is not None
    assert newest.number == 3  # the operator's word counts at once


def altered(head: AuditHead) -> AuditHead:
    return head.model_copy(update={"signature": bytes(64)})


LIES: dict[str, tuple[Callable[[], AuditHead | None], type[RemoteProtocolError]]] = {
    "a shorter log": (lambda: head_of(ADMIN, 7), AuditRolledBack),
    "another log that is shorter": (lambda: head_of(ADMIN, 7, "fork"), AuditRolledBack),
    "another newest entry": (lambda: head_of(ADMIN, 9, "fork"), AuditForked),
    "another entry of an earlier attempt": (lambda: head_of(ADMIN, 6, "fork"), AuditForked),
    "a log signed by another key": (lambda: head_of(OTHER, 10), AuditKeyChanged),
    "another key's signature under the known key": (
        lambda: head_of(OTHER, 10).model_copy(update={"key": ADMIN.public_key}),
        AuditKeyChanged,
    ),
    "a spoiled signature": (lambda: altered(head_of(ADMIN, 10)), AuditKeyChanged),
    "no head": (lambda: None, AuditWithheld),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_contradiction_raises_a_named_alarm_that_outlasts_a_restart(
    witness: AuditWitness, journal: Journal, node: Node, lie: str
) -> None:
    make, kind = LIES[lie]
    before, shown = kept(journal), make()
    with pytest.raises(kind) as caught:
        witness.take(shown)
    assert kept(journal) == [*before, ("refused", 0 if shown is None else shown.number)]
    witness.take(head_of(ADMIN, 30))  # whatever comes now, the alarm stands and nothing is taken
    again = Journal(node.journal)
    with pytest.raises(AuditAlarm, match=caught.value.code):
        AuditWitness(again).check_alarm()
    assert kept(again) == kept(journal)
    again.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_head_that_is_in_memory_only_binds_as_well_and_is_kept_as_evidence(
    witness: AuditWitness, journal: Journal, lie: str
) -> None:
    witness.take(head_of(ADMIN, 9), AttemptKey(PLAN, 2, 1))
    for number in (11, 12):
        witness.take(head_of(ADMIN, number), AttemptKey(PLAN, 2, 1))
    assert kept(journal)[-1] == ("newest", 9)
    shown = {"a shorter log": head_of(ADMIN, 10), "another newest entry": head_of(ADMIN, 12, "fork")}
    with pytest.raises(LIES[lie][1]):
        witness.take(shown.get(lie, LIES[lie][0]()), AttemptKey(PLAN, 2, 1))
    assert kept(journal)[-2] == ("newest", 12)
    assert kept(journal)[-1][0] == "refused"


def test_what_the_operator_accepts_takes_the_place_of_a_head_in_memory(
    witness: AuditWitness, journal: Journal
) -> None:
    witness.take(head_of(ADMIN, 9), AttemptKey(PLAN, 2, 1))
    witness.take(head_of(ADMIN, 12), AttemptKey(PLAN, 2, 1))
    restored = head_of(ADMIN, 4, "restored")
    AuditWitness(journal).accept(
        f"{restored.number}:{restored.hash.hex()}"
    )  # in another process, before a poll
    witness.take(head_of(ADMIN, 6, "restored"), AttemptKey(PLAN, 2, 1))
    witness.settle()
    witness.check_alarm()
    assert kept(journal)[-2:] == [("accepted", 4), ("attempt", 6)]


def test_a_new_attempt_without_a_new_entry_is_a_head_withheld(witness: AuditWitness) -> None:
    witness.take(head_of(ADMIN, 10), AttemptKey(PLAN, 3, 1))
    witness.take(head_of(ADMIN, 10), AttemptKey("cd" * 32, 1, 1))  # of another plan: nothing is known of it
    with pytest.raises(AuditWithheld, match="still 10"):
        witness.take(head_of(ADMIN, 10), AttemptKey(PLAN, 3, 2))


def test_without_a_signed_head_nothing_is_pinned_and_nothing_goes_on(journal: Journal) -> None:
    for _ in range(2):
        with pytest.raises(AuditKeyChanged):
            AuditWitness(journal).take(altered(head_of(ADMIN, 5)))
        with pytest.raises(AuditWithheld):
            AuditWitness(journal).take(None)
    assert AuditWitness(journal).key is None
    AuditWitness(journal).check_alarm()


def told(head: AuditHead) -> str:
    return str(head)


def test_the_operator_ends_an_alarm_with_the_head_that_the_admin_reads_out(
    witness: AuditWitness, journal: Journal
) -> None:
    restored = head_of(ADMIN, 4, "restored")
    with pytest.raises(AuditRolledBack):
        witness.take(restored)
    for wrong in ("", "4", f"x:{restored.hash.hex()}", f"4:{restored.hash.hex()[:-2]}"):
        with pytest.raises(NotAccepted):
            witness.accept(wrong)
    witness.accept(told(restored))
    witness.check_alarm()
    witness.take(restored)
    witness.take(head_of(ADMIN, 6, "restored"), AttemptKey(PLAN, 2, 2))
    assert ("attempt", 8) in kept(journal)  # the evidence stays
    with pytest.raises(AuditRolledBack):
        witness.take(head_of(ADMIN, 3, "restored"))


def test_the_accepted_head_itself_binds(witness: AuditWitness) -> None:
    witness.accept(told(head_of(ADMIN, 9, "restored")))
    with pytest.raises(AuditForked):
        witness.take(head_of(ADMIN, 9))


def test_a_new_key_is_pinned_only_by_its_fingerprint(witness: AuditWitness) -> None:
    new = head_of(OTHER, 12)
    with pytest.raises(AuditKeyChanged):
        witness.take(new)
    with pytest.raises(NotAccepted, match="--new-key"):
        witness.accept(told(new))
    witness.accept(told(new), new_key=fingerprint(OTHER.public_key))
    witness.take(new)
    assert witness.key == OTHER.public_key
    with pytest.raises(AuditKeyChanged):
        witness.take(head_of(ADMIN, 13))


def command(node: Node, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["heads", *options, "--folder", str(node.folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_command_shows_exports_and_accepts(node: Node, journal: Journal, tmp_path: Path) -> None:
    assert "No head" in command(node)[1]
    with pytest.raises(NotAccepted):
        command(node, "--accept", told(head_of(ADMIN, 1)))
    witness = AuditWitness(journal)
    witness.take(head_of(ADMIN, 5))
    code, text = command(node)
    assert (code, fingerprint(ADMIN.public_key) in text) == (0, True)
    with pytest.raises(AuditRolledBack):
        witness.take(head_of(ADMIN, 4))
    code, text = command(node, "--export", str(tmp_path / "heads.json"))
    assert code == 1
    assert all(part in text for part in ("ALARM", "audit-rolled-back", told(head_of(ADMIN, 4))))
    written = json.loads((tmp_path / "heads.json").read_text())
    assert written["node"] == "st-marys"
    assert [(row["kind"], row["number"]) for row in written["heads"]] == [("first", 5), ("refused", 4)]
    code, text = command(node, "--accept", told(head_of(ADMIN, 4)))
    assert (code, "ALARM" in text) == (0, False)


def lying(world: World, lie: Callable[[AuditHead], AuditHead | None]) -> Callable[[Work], Work]:
    """An aggregator that lies about its log from round 2 on."""

    def change(work: Work) -> Work:
        if work.round < 2 or work.head is None:
            return work
        return work.model_copy(update={"head": lie(work.head)})

    return change


AGENT_LIES: dict[str, Callable[[AuditHead], AuditHead | None]] = {
    "audit-withheld": lambda head: None,
    "audit-key-changed": lambda head: head_of(OTHER, head.number),
}


@pytest.mark.parametrize("code", [*AGENT_LIES, "audit-rolled-back", "audit-forked", "audit-stands-still"])
def test_a_node_with_a_doubted_log_joins_no_further_attempt(
    build: Build, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hospital_node.agent.IDLE_S", 0.0)
    world = build(hospitals=4)
    line = Line(world, make_sites(world)[1:], "hospital-1")
    line.waits_for_nobody = True
    agent, journal = make_agent(world, line)
    seen: list[AuditHead] = []

    def lie(head: AuditHead) -> AuditHead | None:
        newest = agent._audit._known()
        assert newest is not None
        if code == "audit-rolled-back":
            return head_of(world.admin, newest.number - 1)
        if code == "audit-forked":
            return head_of(world.admin, newest.number)
        if code == "audit-stands-still":
            seen.append(head)
            return AuditHead(
                number=newest.number, hash=newest.hash, key=newest.key, signature=newest.signature
            )
        return AGENT_LIES[code](head)

    line.lie = lying(world, lie)
    with capture_logs() as logs:
        assert follow(agent)  # the others finish without it
    journal.close()
    refused = [e["code"] for e in logs if e["event"] == "audit.refused"]
    assert refused == ["audit-withheld" if code == "audit-stands-still" else code]
    rounds = {number for number, _, _, _ in line.sent}
    assert rounds == ({1, 2} if code == "audit-stands-still" else {1})


def test_a_head_that_comes_with_the_answer_to_a_message_is_checked_as_well(build: Build) -> None:
    world = build(hospitals=4)
    line = Line(world, make_sites(world)[1:], "hospital-1")

    def lie(work: Work) -> Work:  # phase "share" is news to a node that has just sent its keys
        shared = (work.round, work.phase) == (1, "share")
        return work.model_copy(update={"head": head_of(world.admin, 1)}) if shared else work

    line.lie = lie
    agent, journal = make_agent(world, line)
    with capture_logs() as logs:
        assert not follow(agent)
    assert [e["code"] for e in logs if e["event"] == "audit.refused"] == ["audit-rolled-back"]
    assert [kind for _, _, kind, _ in line.sent] == ["advertise"]
    alarm = journal.heads.alarm()
    assert alarm is not None
    assert alarm.about == "audit-rolled-back"
    journal.close()


def test_an_honest_aggregator_restarted_and_repeated_raises_no_alarm(build: Build) -> None:
    world = build()
    line = Line(world, make_sites(world)[1:], "hospital-1")
    polls = [0]

    def shake(work: Work) -> Work:
        polls[0] += 1
        if polls[0] % 3 == 0:
            world.restart()
        return work

    line.lie = shake
    agent, journal = make_agent(world, line)
    assert follow(agent)
    assert journal.heads.alarm() is None
    assert [row.kind for row in journal.heads.all()].count("attempt") == 3
    journal.close()
