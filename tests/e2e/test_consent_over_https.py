"""Real processes over HTTPS: a hospital withdraws from a long study and refuses another; a short one ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from aggregator.admin import create_plan
from hospital_node import consent, live
from hospital_node.operator import approve_plan
from hospital_node.orders import Word
from hospital_node.settings import Node
from hospital_node.standing import Health, status_of
from medveil.plan import Plan
from medveil.reports import PlanStatus
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.client import NoAnswer
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WHY = "The ethics board meets on 3 June."
LIMIT_S, LONG, SHORT = 600.0, 60, 2
LEAVES = "hospital-4"


@dataclass
class Played:
    """What was seen, in the order in which it happened."""

    withdrawn: Word
    refused: Word
    told: bool
    uploads_at_withdrawal: int
    uploads_later: int
    seen_by_the_node: live.Live
    long: PlanStatus
    short: PlanStatus
    third: PlanStatus


def until(consortium: LocalConsortium, plan: Plan, reached: Callable[[PlanStatus], bool]) -> PlanStatus:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        consortium.check()
        try:
            status = consortium.client.status(plan.id)
            if reached(status):
                return status
        except NoAnswer:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{plan.study.name} did not get so far in time")


def another(consortium: LocalConsortium, name: str, rounds: int) -> Plan:
    study, initial = new_study(options(name, rounds))
    folder = consortium.folder / name
    write_study(folder, study, initial)
    names = [site.name for site in consortium.sites]
    settings, first = consortium._settings, folder / "initial.safetensors"
    return create_plan(settings, folder / "study.toml", first, names, ["researcher"])


def options(name: str, rounds: int) -> StudyOptions:
    from medveil.study import Deadlines

    return StudyOptions(
        name=name,
        task="classification",
        profile="xray",
        hospitals=4,
        rounds=rounds,
        privacy="none",
        patients_hint=10,
        deadlines=Deadlines(**(DEADLINES | {"silence_s": 30.0})),
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("consent")
    write_phantom_sites(folder / "sites", profile="xray", hospitals=4, patients=10)
    study, initial = new_study(options("long", LONG))
    sent: list[str] = []

    def listen(who: str, event: dict[str, object]) -> None:
        if (who, event.get("event")) == (LEAVES, "update.sent"):
            sent.append(str(event["plan"]))

    with LocalConsortium(folder, find_sites(folder / "sites"), listen) as consortium:
        long = consortium.open(study, initial)
        node = Node.load(folder / "nodes" / LEAVES)
        until(consortium, long, lambda now: any(a.done and LEAVES in a.survivors for a in now.attempts))
        short, third = another(consortium, "short", SHORT), another(consortium, "third", SHORT)
        for site in consortium.sites:
            approve_plan(Node.load(folder / "nodes" / site.name), short)
        refused = consent.refuse_plan(node, third, WHY)
        done_with_short = until(consortium, short, lambda now: now.finished)
        withdrawn = consent.withdraw_plan(node, long, WHY)
        before = sent.count(long.id)
        told = consent.tell_aggregator(node)
        at = len(until(consortium, long, lambda now: bool(now.refusals)).attempts)
        on = until(consortium, long, lambda now: sum(a.done for a in now.attempts[at + 1 :]) >= 2)
        seen = live.read(node)
        assert seen is not None
        health = status_of(node).health
        assert health is Health.FINE, health
        waiting = consortium.client.status(third.id)
        later = sent.count(long.id)
    return Played(withdrawn, refused, told, before, later, seen, on, done_with_short, waiting)


def test_a_short_study_is_over_while_a_long_one_goes_on(played: Played) -> None:
    assert played.short.finished
    assert not played.long.finished
    done = [a for a in played.short.attempts if a.done]
    assert len(done) == SHORT + 1
    assert all(LEAVES in a.survivors for a in done)


def test_the_aggregator_knows_who_takes_no_part_and_why(played: Played) -> None:
    assert played.told
    (said,) = played.long.refusals
    assert (said.hospital, said.kind, said.reason) == (LEAVES, "withdrawn", WHY)
    (said,) = played.third.refusals
    assert (said.hospital, said.kind, said.reason) == (LEAVES, "refused", WHY)
    assert LEAVES not in played.long.approved


def test_the_others_go_on_and_nothing_more_of_it_is_sent(played: Played) -> None:
    newest = [a for a in played.long.attempts if a.done][-1]
    assert LEAVES not in newest.survivors
    assert len(newest.survivors) == 3
    assert played.uploads_later <= played.uploads_at_withdrawal + 1, "one may have been on the line"
    assert [one.study for one in played.seen_by_the_node.plans] == []
