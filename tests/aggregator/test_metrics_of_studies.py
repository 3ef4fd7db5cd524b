"""What Prometheus is told of every study: where it stands and what it waits for, in few lines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.backup import back_up
from aggregator.monitoring import AuditTarget, Monitoring
from aggregator.relay.app import Door as RelayDoor
from aggregator.relay.app import create_app as create_relay
from aggregator.relay.settings import RelayFolder, RelaySettings
from aggregator.relay.watched import monitor_token
from aggregator.rounds.runs import Run
from aggregator.settings import LAST_BACKUP, Limits, Settings, load
from aggregator.storage.register import Role
from aggregator.web import gauges
from aggregator.web.gauges import StudyGauges, label_of
from aggregator.web.metrics import ALLOWED_LABELS
from aggregator.work.spending import local_epsilon
from aggregator.work.workers import Inline
from door import Door
from medveil.errors import BadFile
from medveil.messages import Refusal
from medveil.plan import sign_refusal
from medveil.reports import AttemptReport
from medveil.rounds import RoundKind
from promtool import needs_promtool, promtool, samples
from regions import Region
from world import World, finish, make_sites, play

Build = Callable[..., World]
Found = dict[tuple[str, str], float]


def scrape(door: Door) -> str:
    answer = door.show(door.token("prometheus", Role.MONITOR), "GET", "/metrics")
    assert answer.status_code == 200
    return answer.text


def of_study(page: str, world: World) -> Found:
    """(name, the one further label) → value."""
    study = label_of(world.plan.id)
    found = {}
    for name, labels, value in samples(page):
        if labels.pop("study", "") == study:
            found[name.removeprefix("medveil_study_"), next(iter(labels.values()), "")] = value
    return found


def test_an_open_round_shows_whom_it_waits_for_since_when_and_until_when(build: Build) -> None:
    world = build()
    sites, door = make_sites(world), Door(world)
    play(world, sites, until=lambda: world.phase == "share")
    for site in sites[:2]:
        site.act()
    world.clock.now += 7.0
    world.coordinator.runs.touch("hospital-1")
    found = of_study(scrape(door), world)
    assert found["state", "round"] == found["phase", "share"] == found["round", ""] == 1
    assert (found["hospitals", "invited"], found["hospitals", "answered"]) == (3, 2)
    assert (found["hospitals", "in_reach"], found["hospitals", "needed"]) == (3, 3)
    waiting, left = found["waiting_seconds", ""], found["deadline_left_seconds", ""]
    assert waiting + left == world.plan.study.deadlines.share_s
    assert waiting >= 7.0
    assert found["last_heard_seconds", ""] == 7.0
    assert (found["hospital_last_heard_seconds", "1"], found["hospital_last_heard_seconds", "3"]) == (0, 7)
    door.service.close()


def test_a_finished_study_counts_what_it_published_and_how_long_each_phase_took(build: Build) -> None:
    world = build()
    door = Door(world)
    finish(world, make_sites(world))
    page = scrape(door)
    found = of_study(page, world)
    assert found["state", "finished"] == 1
    assert found["rounds_published_total", ""] == 2
    assert (found["attempts_total", "done"], found["attempts_total", "failed"]) == (3, 0)
    phases = Counter(
        labels["phase"] for name, labels, n in samples(page) if name == "medveil_study_phase_seconds_count"
    )
    assert set(phases) == {"advertise", "share", "commit", "upload", "agree", "unmask", "aggregate"}
    whole = {name: value for name, labels, value in samples(page) if not labels}
    assert whole["medveil_audit_entries_total"] == world.store.transactions.head.number
    assert whole["medveil_database_write_seconds_count"] > 10
    assert whole["medveil_leader"] == 1
    assert whole["medveil_backup_timestamp_seconds"] == 0
    door.service.close()


def test_a_study_that_stops_before_its_last_round_has_ended_early_and_is_not_finished(build: Build) -> None:
    world = build()
    door, sites = Door(world), make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    for one in world.identities[:2]:
        word = Refusal(
            kind="withdrawn", reason="no", signature=sign_refusal(world.plan, one, "withdrawn", "no")
        )
        world.coordinator.intake.refuse(world.plan.id, one.name, word)
    play(world, sites[2:], until=lambda: bool(world.status["finished"]))
    found = of_study(scrape(door), world)
    assert found["state", "ended_early"] == 1
    assert ("state", "finished") not in found
    door.service.close()


def test_a_failed_attempt_counts_by_its_code_and_the_log_by_what_no_hospital_has_seen(build: Build) -> None:
    world = build()
    door, sites = Door(world), make_sites(world)
    play(world, sites, until=lambda: world.phase == "share")
    for site in sites:
        site.poll()
    seen = {name: value for name, labels, value in samples(scrape(door)) if not labels}
    door.token("another", Role.AUDITOR)  # two more entries that nobody was shown
    now = {name: value for name, labels, value in samples(scrape(door)) if not labels}
    more = "medveil_audit_unwitnessed_entries"
    assert now[more] > seen[more]
    world.clock.now += world.plan.study.deadlines.share_s + 21
    world.coordinator.tick()
    found = {(name, *labels.values()): value for name, labels, value in samples(scrape(door))}
    assert found["medveil_attempt_failures_total", "below-threshold"] == 1
    door.service.close()


@pytest.mark.parametrize("told", [False, True])
def test_what_an_archive_of_the_audit_log_lacks_is_shown_where_there_is_one(build: Build, told: bool) -> None:
    archive = AuditTarget(to="syslog://127.0.0.1:1") if told else None
    door = Door(build(), monitoring=Monitoring(audit=archive))
    found = {name: value for name, labels, value in samples(scrape(door)) if not labels}
    assert ("medveil_audit_unsent_entries" in found) is told
    if told:
        assert found["medveil_audit_unsent_entries"] == found["medveil_audit_entries_total"] > 0
        assert found["medveil_audit_unsent_seconds"] > 0
    door.service.close()


JOINT = {
    "kind": "joint",
    "clip_norm": 1.0,
    "noise_multiplier": 4.0,
    "epsilon": 9.0,
    "evaluation_multiplier": 9.0,
    "honest_hospitals": 2,
}


def test_both_epsilons_of_joint_noise_are_shown_and_the_dearer_is_counted_once(build: Build) -> None:
    world = build(privacy=JOINT)
    run = world.coordinator.runs.of(world.plan.id, "hospital-1")
    run.newest = run.newest[0].model_copy(update={"number": 1, "epsilon": 0.5}), {}
    asked: list[int] = []

    class Counting(Inline):
        def submit(self, job: Any, /, *args: Any, **kwargs: Any) -> Any:
            assert job is local_epsilon
            asked.append(args[1])
            return super().submit(lambda: 1.25)

    shown = StudyGauges(world.coordinator.runs, Counting().submit)
    for _ in range(3):
        found = {f.name: {tuple(x.labels.values())[1:]: x.value for x in f.samples} for f in shown.collect()}
    spent = found["medveil_study_epsilon"]
    assert spent["joint",] == 0.5
    assert spent["local",] == 1.25
    assert found["medveil_study_epsilon_stated"] == {(): 9.0}
    assert asked == [1]


def test_a_hospital_is_called_by_name_only_where_the_settings_say_so(build: Build, folder: Path) -> None:
    world = build()
    for hospitals, called in (("none", set()), ("index", {"1", "2", "3"}), ("name", {*world.plan.names})):
        shown = StudyGauges(world.coordinator.runs, Inline().submit, hospitals=hospitals)  # type: ignore[arg-type]
        labels = {x.labels.get("hospital") for f in shown.collect() for x in f.samples}
        assert labels - {None} == called
    Settings(folder, monitoring=Monitoring(hospitals="name")).save()
    assert load(folder).monitoring.hospitals == "name"
    text = (folder / "aggregator.json").read_text()
    (folder / "aggregator.json").write_text(text.replace('"name"\n', '"everybody"\n'))
    with pytest.raises(BadFile, match=r"monitoring\.hospitals"):
        load(folder)


def test_however_many_studies_hospitals_and_reasons_there_are_the_lines_stay_few(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    (one,) = world.coordinator.runs.all()
    many = {}
    for number in range(400):
        study = one.plan.study.model_copy(update={"name": f"study-{number}"})
        plan = one.plan.model_copy(update={"study": study})
        many[plan.id] = Run(plan, b"", dict(one.approvals), number < 380, one.newest, approved_at=1.0)
    monkeypatch.setattr(world.coordinator.runs, "_runs", many)
    shown = StudyGauges(world.coordinator.runs, Inline().submit)
    for number, run in enumerate(many.values()):
        phases = dict.fromkeys(
            ("advertise", "share", "commit", "upload", "agree", "unmask", "aggregate"), 1.0
        )
        told = {"round": 1, "attempt": 1, "kind": RoundKind.TRAIN, "phases": phases}
        shown.count(run, AttemptReport(**told, outcome="failed", reason=f"code-{number}"))  # type: ignore[arg-type]
    families = {f.name: f.samples for f in shown.collect()}
    assert sum(map(len, families.values())) < 7000
    studies = {x.labels["study"] for f in families.values() for x in f if "study" in x.labels}
    assert len(studies) == gauges.MOST_STUDIES
    assert {label_of(plan) for plan, run in many.items() if not run.finished} <= studies
    assert families["medveil_studies_not_shown"][0].value == 350
    assert len(families["medveil_attempt_failures"]) <= gauges.MOST_REASONS + 1
    assert {key for f in families.values() for x in f for key in x.labels} <= ALLOWED_LABELS


@needs_promtool
def test_prometheus_finds_nothing_to_say_about_names_and_texts(build: Build) -> None:
    world = build(privacy=JOINT)
    door, sites = Door(world), make_sites(world)
    play(world, sites, until=lambda: world.phase == "upload")
    door.app.state.metrics.cut("slow-head")
    assert promtool("check", "metrics", text=scrape(door).encode()) == ""
    door.service.close()


def test_the_day_of_the_last_backup_is_known_afterwards(folder: Path) -> None:
    from aggregator import admin

    settings = Settings(folder / "aggregator")
    admin.set_up_aggregator(settings)
    back_up(settings, folder / "backup")
    assert float((settings.folder / LAST_BACKUP).read_text()) > 1.7e9
    assert not (folder / "backup" / LAST_BACKUP).exists()


def test_a_relay_tells_its_own_to_whoever_bears_the_token_in_its_folder(build: Build, folder: Path) -> None:
    world = build(hospitals=4)
    region = Region(world, folder / "relay", (2, 3))
    made = RelaySettings(name="north", aggregator="https://here", hospitals=("hospital-2", "hospital-3"))
    relay = RelayFolder(folder, made)
    app = create_relay(relay)
    app.state.door, app.state.token = RelayDoor(region.relay, Limits()), monitor_token(relay.token)
    assert relay.token.stat().st_mode & 0o77 == 0
    assert monitor_token(relay.token) == app.state.token
    region.relay.sums["sent"], region.relay.vectors = 2, 4

    async def ask(bearer: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
            return await client.get("/metrics", headers={"Authorization": bearer} if bearer else {})

    for wrong in ("", "Bearer ", "Bearer wrong", app.state.token):
        assert asyncio.run(ask(wrong)).status_code == 401
    page = asyncio.run(ask(f"Bearer {app.state.token}")).text
    found = {(name, *labels.values()): value for name, labels, value in samples(page)}
    assert found["medveil_relay_sums_total", "sent"] == 2
    assert found["medveil_relay_vectors_total",] == 4
    assert not any(name in page for name in world.plan.names)
    region.close()
