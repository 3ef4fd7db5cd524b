"""A node that runs, and its record of transmissions: what it is told besides, and the archive it goes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from hospital_node.frozen import SentAnchor
from hospital_node.journal import Journal
from hospital_node.records import Records
from hospital_node.settings import Node
from hospital_node.transmissions.archive import AuditArchive, PageArchive
from hospital_node.transmissions.entries import BadTransmission, Detail, NotRecorded
from hospital_node.transmissions.person import local_user
from hospital_node.transmissions.record import About, SentRecord
from medveil.log import get_logger, heard
from medveil.syslog import Forwarder
from medveil.tracing import TraceSender, tracing

log = get_logger()


def tie(sent: SentRecord, records: Records, journal: Journal) -> None:
    """Let the record know what the ledger and the journal know. Raises: NotRecorded."""
    lineages: dict[str, str] = {}

    def about(plan: str) -> About:
        if plan not in lineages:
            approved = journal.plan(plan)
            lineages[plan] = plan if approved is None else approved.lineage
        return About(records.charged(lineages[plan]), journal.approver(plan))

    sent.about = about
    if not sent.tie(SentAnchor(journal)):
        log.error("sent.set-back", code=BadTransmission.code)


@asynccontextmanager
async def recorded(node: Node, sent: SentRecord) -> AsyncIterator[None]:
    """Inside the record tells start, stop and alarms, and the audit archive is told what the record tells.

    Raises: NotRecorded if not even the start can be written.
    """
    who: dict[str, Detail] = {"approved_by": local_user()}
    sent.note("started", who)
    target = node.settings.audit_syslog
    archives: list[Forwarder] = (
        [] if target is None else [AuditArchive(node, target), PageArchive(node, target)]
    )
    sending = [asyncio.ensure_future(archive.run()) for archive in archives]
    try:
        with heard(partial(_alert, sent)):
            yield
    finally:
        with suppress(NotRecorded):
            sent.note("stopped", who)
        for task in sending:
            task.cancel()
        await asyncio.gather(*(archive.close() for archive in archives))


@asynccontextmanager
async def traced(node: Node) -> AsyncIterator[None]:
    """Inside, the collector that this hospital has named is told how long steps took; nobody without one."""
    if node.settings.traces is None:
        yield
        return
    sender = TraceSender(node.settings.traces, "medveil-node", side=node.settings.name)
    log.info("traces.on")
    with tracing(sender):
        sending = asyncio.ensure_future(sender.run())
        try:
            yield
        finally:
            sending.cancel()
            await sender.close()


def _alert(sent: SentRecord, event: str, fields: Mapping[str, Any]) -> None:
    """Whatever the log calls an error is an alert: a refused model or audit log, a ledger set back."""
    if fields.get("level") == "error":
        told = {name: fields[name] for name in ("plan", "code") if isinstance(fields.get(name), str)}
        with suppress(NotRecorded):
            sent.note("alert", {"event": event, **told})
