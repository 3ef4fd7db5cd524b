"""The overview tells of alarms by the limits that Prometheus has, and of the audit log's head."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from aggregator.storage.register import Role
from aggregator.watching import alarms
from aggregator.watching.alarms import SEVERITIES, Alarm, in_order, of_machine, of_study
from aggregator.watching.system import Certificate, Minute
from aggregator.watching.values import StudySeen, WaitsFor
from made_board import ADMIN, NOW, made_app, seen_round, study, waiting, watching
from made_measures import MadeMeasures
from medveil.catalogue.dashboard import DASHBOARD
from medveil.reports import Directive
from medveil.rounds import Phase
from promtool import DEPLOY

DAY = 86_400


def of(seen: StudySeen, failed: int = 0) -> dict[str, Alarm]:
    newest = [
        seen_round(9).model_copy(update={"outcome": "failed", "opened": NOW - 60 * k - 100, "seconds": 60.0})
        for k in range(failed)
    ]
    return {one.alarm: one for one in of_study(seen, newest, now=NOW)}


def calm(**changes: Any) -> StudySeen:
    """A study in which everybody was heard from a moment ago."""
    one = study()
    roster = tuple(line.model_copy(update={"last_heard": NOW - 5}) for line in one.roster)
    return one.model_copy(update={"roster": roster, **changes})


def test_a_study_in_which_all_is_well_alarms_nobody() -> None:
    assert of(calm(waits_for=waiting(since=NOW - 600)), failed=3) == {}


def paused(days: float) -> StudySeen:
    word = Directive(order="pause", number=1, reason="the board asks", at=NOW - days * DAY)
    return calm(state="paused", directives=(word,), waits_for=WaitsFor(why="paused"))


@pytest.mark.parametrize(
    ("alarm", "spoken", "silent"),
    [
        (
            "MedVeilRoundStuck",
            calm(waits_for=waiting(phase=Phase.UPLOAD, since=NOW - 1900)),
            calm(waits_for=waiting(phase=Phase.COMMIT, since=NOW - 1900)),  # training may take hours
        ),
        (
            "MedVeilQuorumUnreachable",
            calm(waits_for=WaitsFor(why="reach", answered=2, need=3)),
            calm(waits_for=WaitsFor(why="next-round", answered=2, need=3)),
        ),
        ("MedVeilStudyPaused", paused(4), paused(2)),
        (
            "MedVeilRosterWaits",
            calm(state="amendment", created=NOW - 4 * DAY, waits_for=WaitsFor(why="roster-approvals")),
            calm(state="amendment", created=NOW - 2 * DAY, waits_for=WaitsFor(why="roster-approvals")),
        ),
    ],
)
def test_each_alarm_of_a_study_speaks_and_is_silent(alarm: str, spoken: StudySeen, silent: StudySeen) -> None:
    assert set(of(spoken)) == {alarm}
    assert set(of(silent)) == set()


def test_who_is_silent_for_longest_is_named_and_failures_are_counted() -> None:
    one = calm()
    roster = [line.model_copy(update={"last_heard": NOW - 4000 - line.index}) for line in one.roster]
    found = of(one.model_copy(update={"roster": tuple(roster)}), failed=4)
    assert (
        found["MedVeilHospitalSilent"].hospital == [r for r in roster if r.stand == "approved"][-1].hospital
    )
    assert found["MedVeilAttemptsFail"].count == 4
    assert [one.severity for one in in_order(iter(found.values()))] == ["warning", "info"]


def test_the_machine_alarms_for_its_disk_its_certificate_its_backup_and_its_faults() -> None:
    well = MadeMeasures(watching()).system()
    assert well.running is not None
    well = well.model_copy(update={"disk_free": int(6e9), "backup_at": NOW - DAY})
    assert list(of_machine(well, now=NOW)) == []
    minute = Minute(at=NOW - 60, requests=100, refused=0, failed=61)
    requests = well.running.requests.model_copy(update={"minutes": (minute,)})
    behind = {"unsent": 7, "unsent_since": NOW - 3601}
    bad = well.model_copy(
        update={
            "disk_free": int(4e9),
            "backup_at": NOW - 3 * DAY,
            "running": well.running.model_copy(update={"requests": requests, **behind}),
            "certificates": (Certificate(file="server.pem", until=NOW + 20 * DAY, days=20, mark="late"),),
        }
    )
    assert {one.alarm for one in of_machine(bad, now=NOW)} == set(SEVERITIES) & {
        "MedVeilDiskAlmostFull",
        "MedVeilAuditUnsent",
        "MedVeilBackupOld",
        "MedVeilFaults",
        "MedVeilCertificateEnds",
    }


def test_limits_and_urgency_are_those_of_the_rules_for_prometheus() -> None:
    rules = {r["alert"]: r for r in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]}
    for name, severity in SEVERITIES.items():
        assert rules[name]["labels"]["severity"] == severity
        assert f"alarm.{name}" in DASHBOARD
    limits = {
        "MedVeilRoundStuck": (alarms.STUCK_S, alarms.TRAINS_S),
        "MedVeilHospitalSilent": (alarms.SILENT_S,),
        "MedVeilAttemptsFail": (alarms.FAILED_ATTEMPTS,),
        "MedVeilFaults": (alarms.FAULTS_PER_S,),
        "MedVeilDiskAlmostFull": (alarms.LEAST_DISK,),
        "MedVeilCertificateEnds": (alarms.CERTIFICATE_S,),
        "MedVeilAuditUnsent": (alarms.UNSENT_S,),
        "MedVeilBackupOld": (alarms.BACKUP_S,),
    }
    for name, wanted in limits.items():
        expression = re.sub(r"(\d+) \* 86400", lambda m: str(int(m[1]) * DAY), rules[name]["expr"])
        assert set(wanted) <= {float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e\d+)?", expression)}, name
    assert {rules[n]["for"] for n in ("MedVeilStudyPaused", "MedVeilRosterWaits")} == {"3d"}
    assert alarms.PAUSED_S == alarms.ROSTER_S == 3 * DAY


@pytest.fixture
def looks(tmp_path: Path) -> Callable[..., str]:
    """The overview as somebody of a role sees it."""
    made = watching(6, 1)

    def look(role: Role, **changed: Any) -> str:
        one = made.studies_[0]
        made.studies_ = (one.model_copy(update={"created": NOW, **_silent(one), **changed}),)
        app = made_app(tmp_path / role, made, replace(ADMIN, role=role, name="somebody"))

        async def send() -> str:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
                return (await client.get("/", headers={"accept": "text/html"})).text

        try:
            return asyncio.run(send())
        finally:
            app.state.board.close()

    return look


def _silent(one: StudySeen) -> dict[str, Any]:
    return {"roster": tuple(line.model_copy(update={"last_heard": 1.0}) for line in one.roster)}


def test_each_role_sees_the_alarms_and_the_head_that_are_its_own(looks: Callable[..., str]) -> None:
    for role, machine, log in (
        (Role.ADMIN, True, True),
        (Role.AUDITOR, False, True),
        (Role.RESEARCHER, False, False),
    ):
        text = looks(role)
        assert "MedVeilHospitalSilent" in text
        assert ("MedVeilDiskAlmostFull" in text) is machine
        assert ("7 entries" in text and 'href="/audit"' in text) is log


def test_hospitals_that_take_part_in_nothing_are_not_counted_as_out_of_reach(
    looks: Callable[..., str],
) -> None:
    assert "hospitals in reach" in looks(Role.ADMIN)
    rests = looks(Role.ADMIN, state="finished")
    assert "hospitals in reach" not in rests
    assert "6 hospitals enrolled" in rests
