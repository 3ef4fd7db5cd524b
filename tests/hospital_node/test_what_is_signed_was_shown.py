"""What an operator approves is what the operator saw: the text on the terminal, the bytes that are signed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from folders import lines_of
from hospital_node import operator, records
from hospital_node.cli import app
from hospital_node.governance import PlanRefused
from hospital_node.journal import Journal
from hospital_node.operator import NoSuchPlan
from hospital_node.settings import Node, NodeSettings, Policy
from hospitals import make_hospital
from hospitals import plan_of as private_plan
from medveil.identity import Identity, verify
from medveil.ids import canonical
from medveil.messages import PlanOffer, PlanOffers
from medveil.plan import Plan, sign_approval
from medveil.rounds import AttemptKey
from medveil.shown import NotConfirmed, Screen
from medveil.spoken import NotAFingerprint, spoken
from privacy.dp.policy import Split
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
ADMIN = Identity.generate("admin")
Aggregator = Callable[..., None]


def plan_of(**changes: Any) -> Plan:
    return make_plan(PEOPLE, make_study(**changes))


def offer_of(shown: Plan, *, signers: int = 0, **changes: Any) -> PlanOffer:
    content: dict[str, Any] = {
        "plan": shown.model_dump_json(),
        "admin_key": ADMIN.public_key,
        "admin_signature": ADMIN.sign("create-plan", shown.hash),
        "approvals": {p.name: sign_approval(shown, p) for p in PEOPLE[1 : 1 + signers]},
    }
    return PlanOffer(**(content | changes))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    settings = NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=tmp_path,
        dataset="films",
        policy=Policy(allow_no_privacy=True),
    )
    made = Node(tmp_path / "node", settings)
    made.save()
    PEOPLE[0].save(made.key)
    return made


@pytest.fixture
def aggregator(monkeypatch: pytest.MonkeyPatch) -> Aggregator:
    """What the aggregator offers from now on."""

    def says(*offers: object) -> None:
        async def offered(_: Node) -> tuple[tuple[object, ...], bytes | None]:
            return offers, None

        monkeypatch.setattr(operator, "offers", offered)

    return says


def approve(node: Node, *typed: str) -> Result:
    return CliRunner().invoke(app, ["approve", *typed, "--folder", str(node.folder)])


def shown(node: Node, *typed: str) -> str:
    result = approve(node, *typed)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def signed(node: Node) -> list[str]:
    journal = Journal(node.journal)
    try:
        found = journal.approved()
    finally:
        journal.close()
    for plan, signature in found:
        verify(PEOPLE[0].public_key, signature, "approve-plan", plan.hash)
    return [plan.id for plan, _ in found]


def test_a_plan_is_signed_after_it_was_shown_and_confirmed_and_is_printed_again(
    node: Node, aggregator: Aggregator
) -> None:
    plan = plan_of()
    aggregator(offer_of(plan))
    first = shown(node)
    assert signed(node) == []
    again = shown(node, *spoken(plan.hash).split(), "--yes")
    assert signed(node) == [plan.id]
    assert first.rstrip() in again
    assert " ".join(spoken(plan.hash).split()[:6]) in again


@pytest.mark.parametrize(
    "form", [lambda p: [p.id], lambda p: [spoken(p.hash).upper()], lambda p: [p.id[:33]]]
)
def test_words_or_digits_name_the_plan(
    node: Node, aggregator: Aggregator, form: Callable[[Plan], list[str]]
) -> None:
    plan = plan_of()
    aggregator(offer_of(plan_of(name="other")), offer_of(plan))
    shown(node)
    shown(node, *form(plan), "--yes")
    assert signed(node) == [plan.id]


def test_an_aggregator_that_swaps_the_plan_after_it_was_shown_gets_no_signature_under_another(
    node: Node, aggregator: Aggregator
) -> None:
    plan, other = plan_of(), plan_of(training={"rounds": 9, "local_steps": 1, "learning_rate": 1.0})
    aggregator(offer_of(plan))
    shown(node)
    aggregator(offer_of(other))
    with pytest.raises(NoSuchPlan):
        shown(node, spoken(other.hash), "--yes")  # never shown
    shown(node, spoken(plan.hash), "--yes")
    assert signed(node) == [plan.id]


def test_nothing_is_fetched_when_a_plan_is_approved(node: Node, aggregator: Aggregator) -> None:
    plan = plan_of()
    aggregator(offer_of(plan))
    shown(node)
    aggregator()
    shown(node, plan.id, "--yes")
    assert signed(node) == [plan.id]


def test_looking_at_the_images_shows_no_plan(node: Node, aggregator: Aggregator) -> None:
    plan = plan_of()
    aggregator(offer_of(plan))
    CliRunner().invoke(app, ["check", "--folder", str(node.folder)])
    with pytest.raises(NoSuchPlan):
        shown(node, plan.id, "--yes")


def test_without_a_person_or_their_word_nothing_is_signed(node: Node, aggregator: Aggregator) -> None:
    plan = plan_of()
    aggregator(offer_of(plan))
    shown(node)
    with pytest.raises(NotConfirmed):
        shown(node, plan.id)
    assert signed(node) == []


@pytest.mark.parametrize(("answer", "count"), [("yes\n", 1), ("y\n", 1), ("\n", 0), ("", 0)])
def test_only_yes_is_yes(
    node: Node, aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch, answer: str, count: int
) -> None:
    plan = plan_of()
    aggregator(offer_of(plan))
    shown(node)
    monkeypatch.setattr("hospital_node.cli.can_ask", lambda: True)
    CliRunner().invoke(app, ["approve", plan.id, "--folder", str(node.folder)], input=answer)
    assert len(signed(node)) == count


def test_a_plan_in_an_edited_journal_is_not_signed(node: Node, aggregator: Aggregator) -> None:
    plan, other = plan_of(), plan_of(name="other")
    aggregator(offer_of(plan))
    shown(node)
    journal = Journal(node.journal)
    (kept,) = journal.shown()
    swapped = operator.ShownPlan(
        plan.id, other.model_dump_json(), ADMIN.public_key, ADMIN.sign("create-plan", other.hash)
    )
    journal.keep_shown(swapped)
    journal.close()
    with pytest.raises(NoSuchPlan):
        shown(node, plan.id, "--yes")
    assert kept.text != swapped.text
    assert signed(node) == []


def test_a_plan_that_a_retired_admin_key_signed_is_shown_anew_before_it_is_approved(
    node: Node, aggregator: Aggregator
) -> None:
    plan, later = plan_of(), Identity.generate("admin")
    aggregator(offer_of(plan))
    shown(node)
    journal = Journal(node.journal)
    for number, key in ((1, ADMIN.public_key), (2, later.public_key)):
        journal.heads.keep(operator_word(number, key))
    journal.close()
    with pytest.raises(PlanRefused, match="another admin key"):
        shown(node, plan.id, "--yes")
    aggregator(
        offer_of(plan, admin_key=later.public_key, admin_signature=later.sign("create-plan", plan.hash))
    )
    shown(node)
    shown(node, plan.id, "--yes")
    assert signed(node) == [plan.id]


def operator_word(number: int, key: bytes) -> Any:
    from hospital_node.seen_heads import SeenHead

    return SeenHead("accepted", number, bytes(32), b"", key, 0.0, "")


def test_one_bad_offer_hides_no_other_and_is_listed_with_its_reason(
    node: Node, aggregator: Aggregator
) -> None:
    good, late = plan_of(), plan_of(name="last")
    broken = (
        offer_of(good, plan="{}"),
        offer_of(good, plan="[" * 100_000),
        offer_of(good, admin_signature=bytes(64)),
        offer_of(
            good, plan=good.model_dump_json().replace('"shape":[2,5]', '"shape":[2,' + "9" * 5000 + "]")
        ),
    )
    aggregator(offer_of(good), *broken, offer_of(late))
    text = shown(node)
    assert text.count("allowed") == 2
    assert all(f"Offer {number}" in text for number in (2, 3, 4, 5))
    assert text.count("bad-plan") == 3
    assert text.count("(code plan-refused)") == 1


MALFORMED: dict[str, Any] = {
    "a key that is too short": {"admin_key": bytes(31)},
    "a hospital that is none": {"approvals": {"Hospital 1!": bytes(64)}},
    "no offer at all": None,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_offer_that_is_none_is_listed_with_its_place_and_the_others_are_shown(
    node: Node, aggregator: Aggregator, name: str
) -> None:
    """As the answer comes over the line: it is decoded although one of its offers is malformed."""
    good, late = plan_of(), plan_of(name="last")
    one, changes = offer_of(good).model_dump(), MALFORMED[name]
    bad = 7 if changes is None else one | changes
    answer = {"offers": [one, bad, offer_of(late).model_dump()], "head": None, "ledger": None}
    aggregator(*PlanOffers.from_bytes(canonical(answer)).offers)
    text = shown(node)
    assert text.count("allowed") == 2
    assert "Offer 2" in text
    assert text.count("(code bad-message)") == 1
    shown(node, late.id, "--yes")
    assert signed(node) == [late.id]


def test_a_command_reads_the_images_folder_once_however_many_plans_are_on_offer(
    node: Node, aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], records.read_patients

    def counted(*given: Any) -> Any:
        read.append(given)
        return real(*given)

    monkeypatch.setattr(records, "read_patients", counted)
    plans = [plan_of(name=f"study-{number}") for number in range(3)]
    aggregator(*map(offer_of, plans))
    shown(node)
    assert len(read) == 1
    shown(node, plans[0].id, "--yes")
    assert len(read) == 2
    CliRunner().invoke(app, ["cohort", "--folder", str(node.folder)])
    assert len(read) == 3


def test_the_patients_that_are_frozen_are_those_that_were_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, plan = make_hospital(tmp_path), private_plan()
    one = operator.Standing(plan, operator.Stands.ALLOWED, offer=offer_of(plan))
    operator.remember_shown(here.node, one)
    asked = []

    def meanwhile(_: Screen, question: str) -> bool:
        asked.append(question)
        here.write(lines_of()[1:])  # a patient leaves while the operator reads
        return True

    monkeypatch.setattr(Screen, "ask", meanwhile)
    monkeypatch.setattr("hospital_node.cli.can_ask", lambda: True)
    text = " ".join(shown(here.node, plan.id).split())
    assert "12 train, 4 val, 4 test" in text
    assert asked
    (frozen,) = operator.frozen_plans(here.node)
    assert frozen.cohort is not None
    assert frozen.cohort.count(Split.TRAIN) == 12
    assert str(frozen.changes) == "1 patient(s) gone"


@pytest.mark.parametrize("typed", ["8774-BAE5-8C02-9CA5", "zoo " * 11])
def test_sixteen_digits_or_fewer_words_are_no_fingerprint(
    node: Node, aggregator: Aggregator, typed: str
) -> None:
    aggregator(offer_of(plan_of()))
    shown(node)
    with pytest.raises(NotAFingerprint):
        shown(node, typed, "--yes")


def test_approved_running_and_finished_plans_are_told_apart_and_not_offered_again(
    node: Node, aggregator: Aggregator
) -> None:
    plan = plan_of()
    aggregator(offer_of(plan, signers=1))
    shown(node)
    shown(node, plan.id, "--yes")
    waiting = shown(node)
    assert "approve with" not in waiting
    assert "waits for 1 more" in " ".join(waiting.split())
    journal = Journal(node.journal)
    journal.join(AttemptKey(plan.id, 2, 1), model=b"m" * 32)
    assert "come to round 2 of 3" in " ".join(shown(node).split())
    journal.finish(plan.id)
    journal.close()
    finished = shown(node)
    assert "the study is over" in finished
    assert "approve with" not in finished


def test_plans_that_an_earlier_version_approved_are_read_or_refused_by_name(
    node: Node, aggregator: Aggregator
) -> None:
    fine, beyond, broken = plan_of(), plan_of(name="beyond"), plan_of(name="broken")
    journal = Journal(node.journal)
    for plan in (fine, beyond, broken):
        journal.approve(plan, sign_approval(plan, PEOPLE[0]))
    journal.close()
    changes = {
        beyond.id: beyond.model_dump_json().replace('"local_steps":1', '"local_steps":1000000000000'),
        broken.id: broken.model_dump_json().replace('"task":"classification"', '"task":"of another time"'),
    }
    with contextlib.closing(sqlite3.connect(node.journal)) as database, database:
        for plan_id, text in changes.items():
            database.execute("UPDATE approvals SET text = ? WHERE plan = ?", (text, plan_id))
    aggregator()
    told = " ".join(shown(node).split())
    assert told.count("Approved with an earlier version, refused by this one") == 2
    assert f"words {spoken(beyond.hash)} refused training.local_steps times rounds must not exceed" in told
    assert f"words {spoken(broken.hash)} refused" in told
    assert spoken(fine.hash) not in told
