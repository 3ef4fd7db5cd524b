"""What is seen of a study: its timeline, what it waits for, its hospitals and its cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from aggregator.errors import NotFound
from aggregator.storage.store import Store
from aggregator.storage.tables import ATTEMPTS
from aggregator.watching.live import HeardBook, is_fresh, read, write
from aggregator.watching.studies import newest_figure
from aggregator.watching.values import Heard, Lane, Live, Timeline
from aggregator.watching.watch import Watching
from aggregator.watching.words import sentence
from door import Door
from medveil.identity import sign_request
from medveil.messages import Refusal
from medveil.plan import sign_refusal
from medveil.reports import AttemptReport
from medveil.rounds import Phase, RoundKind
from medveil.software import HEADER
from watched import BEGUN, Build, watched, watching_of
from world import Site, World, finish, make_sites, play

NAMES = ["hospital-1", "hospital-2", "hospital-3"]
SHORT = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0}
FOUR = {"hospitals": 4, "deadlines": {"silence_s": 20.0, "train_s": 600.0}}


def lanes(found: Timeline) -> dict[str, Lane]:
    return {lane.hospital: lane for lane in found.lanes}


def reached(lane: Lane) -> list[str]:
    return [one.step for one in lane.reached]


def until(world: World, sites: list[Site], phase: str) -> None:
    play(world, sites, until=lambda: world.phase == phase)


def test_a_round_that_is_over_shows_each_step_of_each_hospital_with_its_time(build: Build) -> None:
    world, watching = watched(build, training=SHORT)
    finish(world, make_sites(world))
    found = watching.timeline(world.plan.id, 1)
    assert (found.outcome, found.round, found.rounds, found.quorum) == ("done", 1, 2, 3)
    steps = ["invited", "keys", "training", "ready", "upload", "agreed", "shares"]
    for lane in found.lanes:
        assert (lane.stand, reached(lane)) == ("in-the-sum", steps)
        times = [one.at for one in lane.reached]
        assert times == sorted(times)
        assert found.opened == times[0]
        assert found.ended is not None
        assert times[-1] <= found.ended
    phases = [span.phase.value for span in found.phases]
    assert phases == ["advertise", "share", "commit", "upload", "agree", "unmask", "done"]
    assert all(span.ended is not None for span in found.phases)


def test_an_open_round_names_whom_it_waits_for_and_its_deadline(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    sites = make_sites(world)
    until(world, sites, "commit")
    for site in sites[:3]:
        site.act()
    for _ in range(12):  # the last one trains on, and its poll is a while ago
        world.clock.now += 1.0
        for site in sites[:3]:
            site.poll()
    found = watching.waits_for(world.plan.id)
    assert (found.why, [one.hospital for one in found.awaited]) == ("hospitals", ["hospital-4"])
    assert (found.answered, found.invited, found.need, found.left_s) == (3, 4, 3, 588.0)
    assert sentence(found) == (
        "Round 1 waits for hospital-4 (training; last heard 12 s ago); deadline in 9 min 48 s; "
        "3 of 4 answered, quorum 3 reached."
    )
    timeline = lanes(watching.timeline(world.plan.id))
    assert [timeline[name].stand for name in ("hospital-1", "hospital-4")] == ["answered", "asked"]


def test_who_does_not_answer_is_shown_as_dropped_where_it_dropped(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    sites = make_sites(world)
    until(world, sites, "commit")
    play(world, sites[:3], until=lambda: world.phase == "upload")
    lane = lanes(watching.timeline(world.plan.id))["hospital-4"]
    assert (lane.stand, lane.dropped_in, lane.in_reach) == ("dropped", Phase.COMMIT, False)
    play(world, sites[:3], until=lambda: bool(world.status["attempts"]))
    over = lanes(watching.timeline(world.plan.id, 1))
    assert (over["hospital-4"].stand, over["hospital-4"].dropped_in) == ("dropped", Phase.COMMIT)
    assert over["hospital-1"].stand == "in-the-sum"
    assert watching.rounds(world.plan.id).rounds[0].missing == ("hospital-4",)


def test_an_attempt_that_fails_says_where_and_who_was_missing(build: Build) -> None:
    world, watching = watched(build)
    sites = make_sites(world)
    until(world, sites, "share")
    play(world, sites[:2], until=lambda: bool(world.status["attempts"]))
    found = watching.timeline(world.plan.id, 1, 1)
    assert (found.outcome, found.reason, found.failed_in) == ("failed", "below-threshold", Phase.SHARE)
    stands = {name: (lane.stand, lane.dropped_in) for name, lane in lanes(found).items()}
    assert stands == {
        "hospital-1": ("ended", None),
        "hospital-2": ("ended", None),
        "hospital-3": ("dropped", Phase.SHARE),
    }


def test_without_the_leading_process_what_is_live_is_unknown_and_said_to_be(build: Build) -> None:
    world, _ = watched(build)
    sites = make_sites(world)
    until(world, sites, "commit")
    alone = watching_of(world, live=False)
    found, timeline = alone.waits_for(world.plan.id), alone.timeline(world.plan.id)
    assert [one.hospital for one in found.awaited] == NAMES
    assert "who is in reach is not known" in sentence(found)
    assert timeline.live_as_of is None
    assert {lane.in_reach for lane in timeline.lanes} == {None}


def test_a_study_waits_for_approvals_then_for_hospitals_in_reach_and_says_so(build: Build) -> None:
    world, watching = watched(build, approvals=1)
    world.coordinator.tick()
    found = watching.waits_for(world.plan.id)
    assert (found.why, [one.hospital for one in found.awaited]) == ("approvals", NAMES[1:])
    assert sentence(found).startswith("The study waits for 1 more approval (1 of 3 have approved")
    world, watching = watched(build)
    sites = make_sites(world)
    world.coordinator.tick()
    sites[0].poll()
    world.coordinator.tick()
    found = watching.waits_for(world.plan.id)
    assert (found.why, found.answered, found.need) == ("reach", 1, 3)
    assert "1 that have approved are in reach, 3 are needed" in sentence(found)


def test_a_refusal_stands_in_the_roster_with_the_operators_words(build: Build) -> None:
    world, watching = watched(build, hospitals=4, approvals=2)
    who, reason = world.identities[3], "our board meets in June"
    signature = sign_refusal(world.plan, who, "refused", reason)
    told = Refusal(kind="refused", reason=reason, signature=signature)
    world.coordinator.intake.refuse(world.plan.id, who.name, told)
    seen = watching.study(world.plan.id)
    stands = [(line.hospital, line.stand, line.reason) for line in seen.roster]
    assert stands[2:] == [("hospital-3", "waiting", ""), ("hospital-4", "refused", reason)]
    assert (seen.state, seen.approvals, seen.approvals_needed) == ("approvals", 2, 3)
    assert len(seen.words) == 12


def test_a_study_tells_rounds_done_and_left_its_cost_and_its_newest_figure(build: Build) -> None:
    world, watching = watched(build)
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["attempts"]) == 1)
    seen = watching.study(world.plan.id)
    assert (seen.state, seen.rounds_done, seen.rounds_left, seen.version) == ("running", 1, 2, 1)
    assert seen.cost.privacy == "none"
    assert seen.cost.seconds_left == 2 * (seen.cost.seconds_per_round or 0.0)
    assert seen.figure is None  # the tiny hospitals have no healthy patient
    finish(world, sites)
    seen = watching.study(world.plan.id)
    assert (seen.state, seen.rounds_done, seen.rounds_left) == ("finished", 3, 0)
    assert sentence(seen.waits_for) == "The study is over and waits for nothing."
    assert watching.studies()[0].state == "finished"


def test_hospitals_tell_when_they_were_heard_from_and_what_they_took(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    sites = make_sites(world)
    until(world, sites, "commit")
    play(world, sites[:3], until=lambda: len(world.status["attempts"]) == 1)
    there, gone = watching.hospitals()[0], watching.hospitals()[3]
    assert (there.hospital, there.taken, there.missed, there.in_reach) == ("hospital-1", 1, 0, True)
    assert (gone.hospital, gone.taken, gone.missed) == ("hospital-4", 0, 1)
    assert gone.last_heard is not None
    assert there.last_heard is not None
    assert gone.last_heard < there.last_heard
    assert there.studies == (world.plan.id,)


def test_the_newest_figure_comes_with_its_interval(build: Build) -> None:
    world, _ = watched(build)
    figures = {"auroc": 0.9, "auroc_low": 0.84, "auroc_high": 0.95}
    reports = [
        AttemptReport(round=3, attempt=1, kind=RoundKind.TRAIN, outcome="failed", reason="x"),
        AttemptReport(round=2, attempt=1, kind=RoundKind.TRAIN, outcome="done", figures=figures, metric=0.9),
    ]
    found = newest_figure(world.plan, reports)
    assert found is not None
    assert (found.round, found.value, found.low, found.high) == (2, 0.9, 0.84, 0.95)
    assert found.words == "0.840 to 0.950 (best guess 0.900)"


@pytest.mark.parametrize("offset", [-40.0, 0.0, 3.5, 50.0])
def test_a_clock_is_measured_from_the_times_that_requests_are_signed_with(offset: float) -> None:
    book = HeardBook()
    for number in range(40):  # the way takes 20 ms, and a signature has whole seconds
        sent = 1_000.0 + number * 1.37
        book.note("st-marys", now=sent + 0.02, signed_at=float(int(sent + offset)), version="0.2.0")
    found = book.all()["st-marys"]
    assert found.clock_s is not None
    assert abs(found.clock_s - offset) <= 0.15
    assert found.version == "0.2.0"


@pytest.mark.parametrize("told", ["", "1.0\x1b[31m", "x" * 41, "1 0", "<b>1</b>"])
def test_a_version_that_is_none_is_not_told(told: str) -> None:
    book = HeardBook()
    book.note("st-marys", now=1.0, signed_at=1.0, version=told)
    assert book.all()["st-marys"].version is None


def test_a_nodes_request_tells_its_version_and_an_older_node_is_welcome_without(build: Build) -> None:
    world, _ = watched(build)
    door, path = Door(world), "/v1/plans"
    one, other = world.identities[:2]
    told = sign_request(one, "GET", path, b"").headers() | {HEADER: "0.2.0"}
    assert door.raw("GET", path, b"", told).status_code == 200
    assert door.ask(other, "GET", path).status_code == 200
    known = door.service.live().hospitals
    assert (known[one.name].version, known[other.name].version) == ("0.2.0", None)
    assert abs(known[one.name].clock_s or 0.0) <= 1.1
    seen = door.service.watching.hospitals()
    assert [line.version for line in seen] == ["0.2.0", None, None]
    door.service.close()


def test_the_live_file_is_read_back_kept_over_a_restart_and_grows_stale(build: Build) -> None:
    world, _ = watched(build)
    live = Live(written=100.0, started=1.0, pid=7, hospitals={"st-marys": Heard(at=99.0, version="0.2.0")})
    assert read(world.folder) is None
    write(world.folder, live)
    assert read(world.folder) == live
    assert is_fresh(live, 105.0)
    assert not is_fresh(live, 111.0)
    assert not is_fresh(live.model_copy(update={"stopped": True}), 101.0)
    assert HeardBook(read(world.folder)).all()["st-marys"].at == 99.0
    (world.folder / "live.json").write_text('{"written": "now"}')
    assert read(world.folder) is None


def test_a_round_that_is_not_there_is_not_found(build: Build) -> None:
    world, watching = watched(build)
    for ask in (
        lambda: watching.timeline(world.plan.id),
        lambda: watching.timeline(world.plan.id, 7),
        lambda: watching.timeline(world.plan.id, 1, 9),
        lambda: watching.study("0" * 64),
    ):
        with pytest.raises(NotFound):
            ask()


@contextmanager
def steps_of(store: Store) -> Iterator[list[int]]:
    """How many steps SQLite's machine takes inside the block, in tens."""
    steps, engine = [0], store.transactions._database._engine

    def count() -> None:
        steps[0] += 1

    def note(connection: sa.Connection, *_: object) -> None:
        connection.connection.driver_connection.set_progress_handler(count, 10)  # type: ignore[union-attr]

    sa.event.listen(engine, "before_cursor_execute", note)
    yield steps
    sa.event.remove(engine, "before_cursor_execute", note)


def long_history(world: World, rounds: int) -> None:
    """A study that has had so many rounds."""
    plan, names = world.plan.id, world.plan.names
    rows = []
    for number in range(1, rounds + 1):
        told = AttemptReport(
            round=number,
            attempt=1,
            kind=RoundKind.TRAIN,
            outcome="done",
            seconds=1.0,
            survivors=tuple(names),
            bytes_up=dict.fromkeys(names, 1000),
        )
        at = {"plan": plan, "round": number, "attempt": 1, "kind": "train", "model": "00", "opened": BEGUN}
        rows.append({**at, "outcome": "done", "report": told.stored()})
    with world.store.transactions._database.write("open_attempt") as tx:
        tx.execute(ATTEMPTS.insert(), rows)


def test_an_attempt_more_in_the_history_is_counted_and_not_read(build: Build) -> None:
    """Of fifty hospitals, so that ten thousand rounds take what sixty do."""
    training = {"rounds": 9_999, "local_steps": 1, "learning_rate": 1.0}
    tens = []
    for rounds in (100, 2_100):
        world, watching = watched(build, hospitals=50, training=training, cohort={"max_hospitals": 50})
        long_history(world, rounds)
        ask_everything(world, watching)  # plans are read once and remembered
        with steps_of(world.store) as steps:
            ask_everything(world, watching)
        tens.append(steps[0])
    assert tens[0] > 100
    assert 10 * (tens[1] - tens[0]) < 100 * 2_000, tens


def ask_everything(world: World, watching: Watching) -> None:
    """Every screen once."""
    watching.studies()
    seen = watching.study(world.plan.id)
    assert seen.cost.estimated
    page = watching.rounds(world.plan.id, limit=20)
    assert len(page.rounds) == 20
    following = watching.rounds(world.plan.id, limit=20, before=page.before)
    assert following.rounds[0].round == page.rounds[-1].round - 1
    watching.timeline(world.plan.id)
    watching.timeline(world.plan.id, 30)
    watching.hospitals()
    watching.waits_for(world.plan.id)
