"""What is alarming now, by the same limits as the alarms for Prometheus (``deploy/alerts.yml``).

Prometheus looks again and again and waits before it speaks; here one look must do. So what it takes from a
series is taken from the moment at which it began, where the store or the leading process knows that, and an
alarm that needs a trend or many processes is Prometheus' alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from aggregator.watching.system import System
from aggregator.watching.values import RoundSeen, Short, StudySeen
from medveil.reports import Amount
from medveil.rounds import Phase
from medveil.values import Frozen, Name, Sha256

Severity = Literal["critical", "warning", "info"]
HOUR, DAY = 3600.0, 86_400.0
STUCK_S, TRAINS_S, SILENT_S = 1800.0, 21_600.0, 3600.0
FAILED_ATTEMPTS = 3
PAUSED_S = ROSTER_S = 3 * DAY
LEAST_DISK = 5e9
CERTIFICATE_S, BACKUP_S, UNSENT_S = 21 * DAY, 2 * DAY, HOUR
FAULTS_PER_S, FAULTS_S = 0.1, 600.0
SEVERITIES: dict[str, Severity] = {
    "MedVeilRoundStuck": "critical",
    "MedVeilQuorumUnreachable": "critical",
    "MedVeilHospitalSilent": "info",
    "MedVeilStudyPaused": "info",
    "MedVeilRosterWaits": "info",
    "MedVeilAttemptsFail": "warning",
    "MedVeilFaults": "warning",
    "MedVeilDiskAlmostFull": "critical",
    "MedVeilCertificateEnds": "warning",
    "MedVeilAuditUnsent": "warning",
    "MedVeilBackupOld": "warning",
}
"""Those that a page can tell, most urgent of their kind first."""
ORDER = ("critical", "warning", "info")


class Alarm(Frozen):
    """One alarm that stands."""

    alarm: Short
    """As Prometheus calls it; docs/operations.md says what to do."""
    severity: Severity
    plan: Sha256 | None = None
    study: Name | None = None
    hospital: Name | None = None
    """Of one that is silent: whose silence is the longest."""
    since: Amount | None = None
    """When that began which is alarming, or when a certificate ends."""
    count: Amount = 0
    """Hospitals in reach, failed attempts, or bytes that are left."""


def in_order(found: Iterator[Alarm]) -> tuple[Alarm, ...]:
    """The most urgent first."""
    return tuple(sorted(found, key=lambda one: ORDER.index(one.severity)))


def of_study(seen: StudySeen, newest: Sequence[RoundSeen], *, now: float) -> Iterator[Alarm]:
    """Of one study that is not over.

    Args:
        newest: its newest attempts that have ended.
    """
    waits = seen.waits_for
    if waits.since is not None and waits.phase is not None:
        limit = TRAINS_S if waits.phase is Phase.COMMIT else STUCK_S
        if now - waits.since > limit:
            yield _alarm("MedVeilRoundStuck", seen, since=waits.since)
    if waits.why == "reach":
        yield _alarm("MedVeilQuorumUnreachable", seen, count=waits.answered)
    if seen.state == "running":
        known = [(one.last_heard, one.hospital) for one in seen.roster if one.stand == "approved"]
        silent = [(at, name) for at, name in known if at is not None and now - at > SILENT_S]
        if silent:
            since, hospital = min(silent)
            yield _alarm("MedVeilHospitalSilent", seen, since=since, hospital=hospital)
    if seen.state == "paused" and seen.directives and now - seen.directives[0].at > PAUSED_S:
        yield _alarm("MedVeilStudyPaused", seen, since=seen.directives[0].at)
    if seen.state == "amendment" and now - seen.created > ROSTER_S:
        yield _alarm("MedVeilRosterWaits", seen, since=seen.created)
    failed = sum(one.outcome == "failed" and now - one.opened - one.seconds < HOUR for one in newest)
    if failed > FAILED_ATTEMPTS:
        yield _alarm("MedVeilAttemptsFail", seen, count=failed)


def of_machine(found: System, *, now: float) -> Iterator[Alarm]:
    """Of the machine and the process that answers; whether another one leads it may not know."""
    running = found.running
    if running is not None:
        failed = sum(one.failed for one in running.requests.minutes if now - one.at < FAULTS_S)
        if failed > FAULTS_PER_S * FAULTS_S:
            yield _alarm("MedVeilFaults", count=failed)
        if running.unsent_since is not None and now - running.unsent_since > UNSENT_S:
            yield _alarm("MedVeilAuditUnsent", since=running.unsent_since, count=running.unsent or 0)
    if found.disk_free < LEAST_DISK:
        yield _alarm("MedVeilDiskAlmostFull", count=found.disk_free)
    ends = [one.until for one in found.certificates if one.file == "server.pem"]
    if ends and ends[0] - now < CERTIFICATE_S:
        yield _alarm("MedVeilCertificateEnds", since=ends[0])
    if found.backup_at is None:  # a new aggregator has an hour to make one
        if running is not None and now - running.started > HOUR:
            yield _alarm("MedVeilBackupOld")
    elif now - found.backup_at > BACKUP_S:
        yield _alarm("MedVeilBackupOld", since=found.backup_at)


def _alarm(
    name: str,
    seen: StudySeen | None = None,
    *,
    since: float | None = None,
    count: float = 0,
    hospital: str | None = None,
) -> Alarm:
    return Alarm(
        alarm=name,
        severity=SEVERITIES[name],
        plan=None if seen is None else seen.plan,
        study=None if seen is None else seen.name,
        hospital=hospital,
        since=since,
        count=count,
    )
