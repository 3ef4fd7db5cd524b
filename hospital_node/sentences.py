"""The node's log for people at a terminal: each event as a plain sentence; piped, it stays JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from medveil.errors import Error

if TYPE_CHECKING:
    from hospital_node.live import Board
    from hospital_node.settings import Node

SENTENCES = {
    "node.starting": "Starting: loading what trains and reads images.",
    "node.started": "This node runs. Stop it with Ctrl-C; 'medveil node status' says where it stands.",
    "node.resting": "Nothing to compute: memory is given back until there is. The node goes on.",
    "node.stopped": "Stopped.",
    "node.ready": "{study}: follows the study.",
    "node.refused": "The aggregator refuses this hospital ({code}): {reason} It is asked again later.",
    "plan.waiting": "{study}: waits ({code}). {reason}",
    "plan.outdated": "{study}: was approved with an earlier version and is refused by this one.",
    "plan.unprepared": "{study}: the first model could not be fetched ahead ({code}); it is fetched later.",
    "plan.left": "{study}: the aggregator has heard that this hospital takes no part ({kind}).",
    "plan.finished": "{study}: the study is over.",
    "images.begun": "{study}: reads the images.",
    "images.reading": "{study}: images {count} of {total}, {rate} a second, {seconds} s left.",
    "images.read": "{study}: the images are read; {count} items cannot be used (see: medveil node check).",
    "images.cache": "{study}: sealed copies of images cannot be used ({code}); files are read instead.",
    "cohort.changed": "{study}: the images are not what was approved: {reason}. See: medveil node cohort",
    "patients.moved": "{study}: {count} patients are left out; an earlier study met them in another split.",
    "work.started": "{study}: round {round}, attempt {attempt}: computes.",
    "ranks.ready": "{count} processes share the steps of training.",
    "work.going": "{study}: round {round}: step {count} of {total}, {rate} a second, {seconds} s left.",
    "work.finished": "{study}: round {round}, attempt {attempt}: has computed.",
    "update.sent": "{study}: round {round}, attempt {attempt}: the masked vector is out.",
    "attempt.sat-out": "{study}: round {round}, attempt {attempt}: sat out after a restart; harmless.",
    "attempt.missed": "{study}: round {round}, attempt {attempt}: missed ({code}); the next is a new chance.",
    "attempt.refused": "{study}: round {round}, attempt {attempt}: this node does not go along ({code}).",
    "attempt.aborted": "{study}: round {round}, attempt {attempt}: failed, and is given up.",
    "attempt.kept": "{study}: round {round}, attempt {attempt}: failed; others end it ({code}).",
    "attempt.given-up": "{study}: round {round}, attempt {attempt}: enough hospitals have given it up.",
    "aggregator.unreachable": "No answer from the aggregator: {reason}. It is asked again by itself.",
    "aggregator.problem": "The aggregator's answer makes no sense here ({code}).",
    "offer.refused": "An offer of the aggregator is refused ({code}).",
    "certificate.refused": "{study}: signatures that give round {round} up did not hold ({code}).",
    "certificate.renewed": "The TLS client certificate is renewed.",
    "certificate.not-renewed": "The TLS client certificate is not renewed ({reason}); it is tried again.",
    "held-back.lost": "{study}: the disk did not take what was held back; that training is lost.",
    "ledger.set-back": "ALARM: the aggregator saw {total} rows of the ledger; here are {count} ({code}).",
    "lineage.refused": "ALARM: {study}: the model does not follow from the published sums ({code}). "
    "See: medveil node lineage",
    "lineage.unkept": "{study}: the disk did not take this node's copy of the model; it is tried again.",
    "audit.refused": "ALARM: the aggregator's audit log contradicts itself ({code}). See: medveil node heads",
    "admin-key.followed": "The admin key was handed over: {reason}.",
}
"""Event → sentence; a field that an event lacks is left out."""


class _Fields(dict[str, Any]):
    def __missing__(self, _: str) -> str:
        return "?"


def sentence(event: Mapping[str, Any], study_of: Callable[[str], str]) -> str:
    """One event of the log as a line for people.

    Args:
        event: as the log's allow-list has left it, so every text in it can be shown.
        study_of: the name of a plan's study.
    """
    words, plan = SENTENCES.get(str(event.get("event"))), event.get("plan")
    if words is None:
        skipped = ("event", "level", "timestamp")
        rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in skipped)
        return f"{event.get('event')}: {rest}" if rest else str(event.get("event"))
    study = study_of(plan) if isinstance(plan, str) else "?"
    return words.format_map(_Fields(event, study=study)).strip()


def to_board(board: Board) -> Callable[[str, Mapping[str, Any]], None]:
    """For :func:`medveil.log.heard`: each event as a sentence onto what a running node tells of itself."""

    def hear(_: str, event: Mapping[str, Any]) -> None:
        names = {one.plan: one.study for one in board.live.plans}
        board.hear(sentence(event, lambda plan: names.get(plan, plan[:8])))

    return hear


def for_people(node: Node) -> Callable[[Mapping[str, Any]], str]:
    """The node's events as sentences, with the names of its studies."""
    names: dict[str, str] = {}

    def study_of(plan: str) -> str:
        if plan not in names:
            from hospital_node.operator import opened

            with suppress(Error), opened(node) as journal:
                names.update({one.id: one.study.name for one, _ in journal.approved()})
        return names.get(plan, f"plan {plan[:8]}")

    return lambda event: sentence(event, study_of)
