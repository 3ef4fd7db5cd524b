"""``medveil node status``: where this hospital's node stands, in five lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.shown import Screen, Words, fault, good, plain, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hospital_node.live import Going, PlanLive
    from hospital_node.settings import Node
    from hospital_node.standing import NodeStatus

screen = Screen()
WIDTH = 12


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One line for a program.")] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Where this node stands, in five lines. Exit code 0: fine, 1: somebody is needed, 3: no node runs."""
    node = node_in(folder)
    from hospital_node.standing import status_of

    found = status_of(node)
    if as_json:
        screen.json(_for_programs(found))
    else:
        screen.fields(rows(node, found), width=WIDTH)
    raise typer.Exit(found.health)


def policy(folder: Folder = DEFAULT) -> None:
    """Show what this hospital allows, line by line, and what each line means; node.json holds it."""
    node = node_in(folder)
    from hospital_node.limits import outside_hours, policy_rows

    screen.table(("in node.json", "says", "what it means"), policy_rows(node.settings.policy))
    closed = outside_hours(node.settings.policy)
    if closed:
        screen.say(warn("now"), f"outside of {closed}")


def rows(node: Node, found: NodeStatus) -> Iterator[tuple[Words, Words]]:
    """Connected; study and round; whom it waits for; budget; the last problem."""
    yield "connected", _connected(node, found)
    for one in found.plans:
        yield "study", f"{plain(one.study)}: {_place(one)}"
        yield "waits for", plain(one.waits_for) or "nobody"
    if not found.plans:
        yield "study", "none is approved here that is not over"
        yield "waits for", "the operator: medveil node approve"
    for name, word in found.halted:
        yield "admin", warn(f"{plain(name)} was {plain(str(word), 400)}")
    yield "budget", _budget(found)
    yield "last problem", _problem(found)


def _connected(node: Node, found: NodeStatus) -> Words:
    from hospital_node.standing import ago, since

    told, address = found.live, plain(node.settings.aggregator)
    if told is None:
        return fault("not running: no node has run in this folder yet (medveil node run)")
    if not found.running:
        how = "it was stopped" if told.stopped else "it ended without a word"
        return fault(f"not running: {how} {ago(told.updated)} (medveil node run)")
    if told.silent:
        return fault(f"unknown: it runs, and has told nothing for {since(told.updated)}; look at its log")
    if told.asks_nobody:
        return "not asked: no approved study goes on, so this node calls nobody"
    if not told.connected:
        return fault(f"no: {address} has not answered for {since(told.since)}")
    return good(f"yes, to {address}, for {since(told.since)}{'; paused' if told.paused else ''}")


def _place(one: PlanLive) -> str:
    if one.stand == "approvals":
        return f"{one.approvals} of {one.approvals_needed} hospitals have approved"
    place = f"round {one.round} of {one.rounds}" if one.round else "before its first round"
    if one.attempt:
        place += f", attempt {one.attempt}, {plain(one.phase, 20)}"
    if one.going is not None:
        place += f"; {_going(one.going)}"
    if one.device and one.going is not None and one.going.part == "training":
        place += f", on the {'GPU' if one.device == 'cuda' else 'CPU'}"
    if one.stand == "away":
        place += "; joins no attempt"
    return place + ("; left after this round" if one.leaving else "")


def _going(going: Going) -> str:
    what = "image" if going.part == "images" else "step"
    left = f"{going.left_s:.0f} s" if going.left_s < 120 else f"{going.left_s / 60:.0f} min"
    return f"{what} {going.done:,} of {going.total:,}, {going.rate:.3g} a second, {left} left"


def _budget(found: NodeStatus) -> Words:
    if found.budget is None:
        code = "" if found.problem is None else f" (code {found.problem.code})"
        return fault(f"the ledger cannot be read{code}")
    left = found.budget
    words = f"epsilon {left.epsilon:.2f} of {left.cap:g} left, at delta {left.delta:.3g}"
    return words if left.epsilon > 0 else warn(words)


def _problem(found: NodeStatus) -> Words:
    from hospital_node.standing import ago

    if found.problem is not None:
        return warn(f"{plain(found.problem.code)}: {plain(found.problem.remedy)}")
    if found.live is None or found.live.problem is None:
        return "none"
    last = found.live.problem
    parts = [plain(part) for part in (last.what, last.remedy) if part]
    return warn(f"{plain(last.code, 60)}, {ago(last.at)}: {' '.join(parts)}")


def _for_programs(found: NodeStatus) -> dict[str, object]:
    told, left = found.live, found.budget
    return {
        "health": int(found.health),
        "running": found.running,
        "live": None if told is None else told.model_dump(mode="json", exclude={"plans"}),
        "plans": [one.model_dump(mode="json") for one in found.plans],
        "budget": None if left is None else {"epsilon": left.epsilon, "cap": left.cap, "delta": left.delta},
        "halted": [{"study": name, "word": w.word, "reason": w.reason} for name, w in found.halted],
        "problem": None if found.problem is None else found.problem.code,
    }
