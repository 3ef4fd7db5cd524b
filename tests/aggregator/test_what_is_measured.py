"""What the screens of convergence, privacy, audit and system show, as values: without a page."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from aggregator.access.tls import make_certificates
from aggregator.settings import Settings
from aggregator.storage.past import PastAttempt, Wanted
from aggregator.storage.store import Store
from aggregator.watching import past as past_module
from aggregator.watching.audit import check_log
from aggregator.watching.convergence import MOST_COLUMNS, columns
from aggregator.watching.cost import Epsilons
from aggregator.watching.measures import Measures
from aggregator.watching.privacy import by
from aggregator.web.recent import Recent
from amended import amended
from medveil.metrics import read_headline
from medveil.readings import Reading, interval_words
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, RoundKind
from medveil.study import Study
from policies import LOCAL
from world import Clock, World, finish, make_sites, play

Build = Callable[..., World]
JOINT = LOCAL | {"kind": "joint", "honest_hospitals": 2}


def measured(world: World, **options: Any) -> Measures:
    return Measures(world.store, Settings(world.folder), now=lambda: 5000.0, **options)


def ended(world: World, number: int, attempt: int = 1, **told: Any) -> None:
    """One more attempt that has ended."""
    kind = told.get("kind", RoundKind.TRAIN)
    key = AttemptKey(world.plan.id, number, attempt)
    world.store.plans.open_attempt(key, kind=kind, model="a" * 64, now=float(number))
    usual = {"round": number, "attempt": attempt, "kind": kind, "outcome": "done"}
    version = None
    if kind is RoundKind.TRAIN and told.get("outcome", "done") == "done":
        newest = world.store.plans.newest_version(world.plan.id)
        assert newest is not None
        changes = {"number": newest.number + 1, "model": f"{number:064x}", "epsilon": told.get("epsilon")}
        version = newest.model_copy(update=changes)
    world.store.plans.end_attempt(world.plan.id, AttemptReport.model_validate(usual | told), version=version)


def figures(value: float, arm: float = 0.05) -> dict[str, Any]:
    return {"metric": value, "figures": {"auroc": value, "auroc_low": value - arm, "auroc_high": value + arm}}


# ---- convergence


def made(number: int, value: float | None = None, **changes: Any) -> PastAttempt:
    usual: dict[str, Any] = {
        "plan": "a" * 64,
        "round": number,
        "attempt": 1,
        "kind": RoundKind.TRAIN,
        "done": True,
        "opened": 0.0,
    }
    usual |= {"seconds": 1.0, "figures": {}, "metric": value, "norm": None, "epsilon": None}
    return PastAttempt(**usual | {"began": 4, "summed": 3, "phases": {}, "moved": {}} | changes)


def reading(past: PastAttempt) -> Reading | None:
    return None if past.metric is None else Reading(past.metric, (past.metric - 0.1, past.metric + 0.1))


def test_a_thinned_series_keeps_every_extreme_and_counts_everything() -> None:
    values = [0.5 + 0.3 * math.sin(number) for number in range(1, 10_001)]
    values[6_543] = 0.99
    found = columns([made(n, v) for n, v in enumerate(values, 1)], reading, each=84)
    assert len(found) == MOST_COLUMNS
    assert (found[0].first, found[0].last, found[-1].last) == (1, 84, 10_000)
    assert sum(one.attempts for one in found) == 10_000
    assert sum(one.dropped for one in found) == 10_000
    spans = [one.figure for one in found if one.figure is not None]
    assert (min(s.least for s in spans), max(s.most for s in spans)) == (min(values), 0.99)
    intervals = [one.interval for one in found if one.interval is not None]
    assert max(s.most for s in intervals) == pytest.approx(1.09)


def test_a_column_has_no_interval_unless_each_of_its_figures_has_one() -> None:
    known, unknown = made(1, 0.8), made(2, 0.9)
    (both,) = columns(
        [known, unknown], lambda one: Reading(one.metric) if one is unknown else reading(one), each=2
    )
    assert both.figure is not None
    assert both.interval is None


def test_attempts_of_one_round_add_up_and_a_failed_one_counts_as_no_drop_out() -> None:
    first = made(1, done=False, phases={"share": 1.0, "commit": 2.0}, moved={"commit": (5, 5)})
    second = made(1, attempt=2, phases={"commit": 3.0, "upload": 4.0}, moved={"upload": (100, 1), "": (7, 0)})
    (column,) = columns([first, second], reading, each=1)
    assert column.seconds == {"training": 5.0, "sending": 4.0, "rest": 1.0}
    assert column.bytes == {"training": 10.0, "sending": 101.0, "rest": 7.0}
    assert (column.attempts, column.failed, column.began, column.dropped) == (2, 1, 4, 1)


def test_a_study_shows_its_figure_with_interval_its_norm_and_the_margin_to_a_gate(build: Build) -> None:
    world = build()
    ended(world, 1, **figures(0.7), update_norm=0.5)
    ended(world, 2, outcome="failed", reason="x")
    ended(world, 2, 2, **figures(0.9), update_norm=0.25)
    found = measured(world).convergence(world.plan.id, gate=0.8)
    assert (found.attempts, found.all_read, found.each, len(found.columns)) == (3, True, 1, 2)
    assert found.last is not None
    assert found.last.words == "0.850 to 0.950 (best guess 0.900)"
    assert [one.norm for one in found.newest] == [0.25, None, 0.5]
    assert found.margin is not None
    assert (found.margin.verdict, found.margin.margin) == ("passed", pytest.approx(0.05))
    verdicts = [measured(world).convergence(world.plan.id, gate=gate).margin for gate in (0.9, 0.99)]
    assert [one.verdict for one in verdicts if one] == ["open", "missed"]


def test_a_figure_of_an_earlier_version_gets_its_interval_from_its_histograms(build: Build) -> None:
    world = build(privacy=LOCAL)
    cells = [0.0] * 20
    cells[15] = 60.0
    sums = {"positives/abnormal": cells, "negatives/abnormal": cells[::-1]}
    told = {"auroc": 1.0, "accuracy": 1.0, "patients": 120.0, "noise": 0.02}
    end = {"kind": RoundKind.EVALUATE, "survivors": world.plan.names}
    ended(world, 3, metric=1.0, figures=told, sums=sums, **end)
    found = measured(world).convergence(world.plan.id)
    (report,) = world.store.plans.attempts(world.plan.id)
    assert found.final is not None
    assert found.final.words == interval_words(read_headline(world.plan.study, report))
    assert found.final.words.startswith("above 0.9")


def test_a_long_history_is_read_a_page_a_look_and_what_is_over_never_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_module, "PAGE", 4)
    world = build()
    for number in range(1, 11):
        ended(world, number)
    measures, asked = measured(world), rows_read(world.store)
    looks = []
    for _ in range(4):
        found = measures.convergence(world.plan.id)
        looks.append((found.attempts, found.all_read, sum(asked)))
        asked.clear()
    assert looks == [(4, False, 4), (8, False, 4), (10, True, 2), (10, True, 0)]
    ended(world, 11)
    assert measures.convergence(world.plan.id).attempts == 11
    assert sum(asked) == 1
    assert [c.first for c in measures.convergence(world.plan.id).columns] == list(range(1, 12))


def rows_read(store: Store) -> list[int]:
    """Collects how many past attempts each question to the database reads."""
    real, counted = store.past.attempts, list[int]()

    def counting(*args: Any, **kwargs: Any) -> list[PastAttempt]:
        found = real(*args, **kwargs)
        counted.append(len(found))
        return found

    store.past.attempts = counting  # type: ignore[method-assign]
    return counted


def test_studies_are_compared_by_their_newest_figures_and_only_those_that_may_be_read(build: Build) -> None:
    world = build()
    finish(world, make_sites(world))
    measures = measured(world)
    (one,) = measures.comparison().studies
    assert (one.study, one.finished, one.hospitals, one.round) == ("tiny", True, 3, 3)
    assert one.epsilon is None
    assert measures.comparison(frozenset()).studies == ()
    assert measures.comparison(task="segmentation").studies == ()
    assert len(measures.comparison(frozenset({world.plan.id}), task="classification").studies) == 1


def test_a_study_whose_roster_has_changed_goes_on_as_one(build: Build) -> None:
    world = build(hospitals=4)
    play(world, make_sites(world), until=lambda: len(world.status["versions"]) == 2)
    after = amended(world, world.identities[1:], first_round=2)
    finish(after, make_sites(after))
    measures = measured(after)
    found = measures.convergence(after.plan.id)
    assert [column.first for column in found.columns] == [1, 2]
    assert (found.newest[0].plan, found.newest[-1].plan) == (after.plan.id, world.plan.id)
    assert [one.round for one in found.newest] == sorted((one.round for one in found.newest), reverse=True)
    assert [one.plan for one in measures.comparison().studies] == [after.plan.id]
    assert [one.plan for one in measures.privacy().studies] == [after.plan.id]
    assert [one.plan for one in measures.privacy(frozenset({world.plan.id})).studies] == [world.plan.id]


# ---- privacy


def account(study: Study, rounds: int | None) -> Epsilons:
    """In place of the accountant, which takes seconds to load."""
    trained = 2 if rounds is None else rounds
    return Epsilons(joint=1.5 * trained, local=2.5 * trained)


def test_epsilon_so_far_and_at_the_end_against_others_and_against_everybody(build: Build) -> None:
    world = build(privacy=JOINT)
    ended(world, 1, epsilon=1.25)
    (study,) = measured(world, reckon=by(account)).privacy().studies
    noise = study.noise
    assert noise is not None
    assert (noise.joint, noise.local) == (1.5, 2.5)
    assert (noise.joint_at_end, noise.local_at_end) == (3.0, 5.0)
    assert (noise.mechanism, noise.accountant, noise.honest_hospitals) == ("gaussian", "gaussian", 2)
    assert (study.unit, study.least_in_sum, noise.trained, noise.rounds) == ("patient", 3, 1, 2)


def test_without_an_accountant_what_the_store_tells_is_shown_and_the_rest_is_not_made_up(
    build: Build,
) -> None:
    world = build(privacy=JOINT)
    ended(world, 1, epsilon=1.25)
    (study,) = measured(world).privacy().studies
    assert study.noise is not None
    assert (study.noise.joint, study.noise.local, study.noise.local_at_end) == (1.25, None, None)
    waiting = measured(world, reckon=lambda plan, rounds: None).privacy()
    assert waiting.reckoning
    ended(world, 3, kind=RoundKind.EVALUATE)
    (study,) = measured(world).privacy().studies
    assert study.noise is not None
    assert (study.noise.joint, study.noise.evaluated) == (8.0, True)


def test_a_study_without_noise_promises_no_epsilon(build: Build) -> None:
    world = build()
    (study,) = measured(world, reckon=by(account)).privacy().studies
    assert (study.kind, study.noise) == ("none", None)
    assert measured(world).privacy(study="other").studies == ()


# ---- audit


def test_the_log_is_paged_searched_and_says_who_holds_its_head(build: Build) -> None:
    world = build()
    finish(world, make_sites(world))
    measures, head = measured(world), world.store.transactions.head
    page = measures.audit()
    assert (page.head, page.hash) == (head.number, head.hash.hex())
    assert page.entries[0].number == head.number
    older = measures.audit(before=page.older)
    assert older.entries[0].number == page.entries[-1].number - 1
    mine = measures.audit(Wanted(actor="hospital-1", action="attempt"))
    assert {(e.actor, e.action) for e in mine.entries} == {("hospital-1", "attempt.message")}
    assert measures.audit(Wanted(text="<script>")).entries == ()
    assert [one.hospital for one in page.holders] == list(world.plan.names)
    assert all(0 < one.entry <= head.number and one.since == head.number - one.entry for one in page.holders)


def test_a_check_of_the_log_tells_that_it_is_whole_or_which_entry_is_the_first_bad_one(build: Build) -> None:
    world = build()
    ended(world, 1)
    settings = Settings(world.folder)
    world.admin.save(settings.folder / "admin.key")
    assert world.database == settings.where
    good = check_log(settings)
    assert (good.outcome, good.number) == ("whole", world.store.transactions.head.number)
    with sqlite3.connect(settings.where) as file:
        file.execute("UPDATE audit SET actor = 'somebody else' WHERE number = 3")
    file.close()
    bad = check_log(settings)
    assert (bad.outcome, bad.number, bad.code) == ("broken", 3, "audit-broken")
    (settings.folder / "admin.key").unlink()
    assert (check_log(settings).outcome, check_log(settings).code) == ("failed", "no-admin-key")


# ---- system


def test_the_system_tells_what_runs_out(build: Build) -> None:
    world = build()
    make_certificates(world.folder / "tls", ("localhost",))
    measures = Measures(world.store, Settings(world.folder), now=time.time)
    found = measures.system()
    assert (found.database, found.backup_at, found.backup_mark) == ("sqlite", None, "waiting")
    assert found.database_bytes > 10_000
    assert [(c.file, c.mark) for c in found.certificates] == [("server.pem", "done"), ("ca.pem", "done")]
    assert {"medveil", "cryptography", "fastapi"} <= {p.name for p in found.packages}
    (world.folder / "last-backup").write_text(f"{time.time() - 5 * 86_400:.0f}\n")
    assert measures.system().backup_mark == "late"
    (world.folder / "last-backup").write_text("<script>\n")
    assert measures.system().backup_at is None


def test_requests_are_counted_by_the_minute_and_waits_on_purpose_are_no_slowness() -> None:
    clock = Clock(600.0)
    recent = Recent(clock)
    for status in (200, 200, 404, 500, 0):
        recent.request({"route": None}, status, 0.01)
    clock.now += 60
    for _ in range(7):
        recent.request({"route": type("Route", (), {"path": "/v1/plans/{plan}/work"})}, 200, 25.0)
    seen = recent.seen()
    assert [(m.requests, m.refused, m.failed) for m in seen.minutes] == [(5, 1, 2), (7, 0, 0)]
    assert (seen.usual_s, seen.slow_s) == (0.025, 0.025)
    clock.now += 100 * 60
    later = recent.seen()
    assert len(later.minutes) == 60
    assert sum(m.requests for m in later.minutes) == 0
    assert (later.per_s, later.usual_s) == (0.0, None)
