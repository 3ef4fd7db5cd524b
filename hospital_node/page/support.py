"""What a hospital may hand to whoever helps it: counts, codes, versions. Its person reads it first."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from hospital_node.page.values import Data, HealthShown, LedgerShown, Panels, Requests, Trouble
from hospital_node.settings import Node
from medveil import look


def bundle(node: Node, panels: Panels) -> dict[str, Any]:
    """Plain values for JSON.

    Guarantees: no name of a file, folder, hospital, study or patient, no address, key or text of others.
    """
    state = panels.state
    return {
        "medveil": look.version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "state": {"kind": state.kind, "connected": state.connected, "paused": state.paused},
        "calls": {one.kind: one.count for one in state.calls},
        "plans": [
            {"stand": p.stand, "round": p.round, "rounds": p.rounds, "code": p.code, "device": p.device}
            for p in state.plans
        ],
        "policy": node.settings.policy.model_dump(mode="json"),
        "data": _data(panels.data),
        "requests": _requests(panels.requests),
        "ledger": _ledger(panels.ledger),
        "health": _health(panels.health),
    }


def _code(trouble: Trouble) -> dict[str, str]:
    return {"code": trouble.code}


def _data(found: Data | Trouble) -> Any:
    if isinstance(found, Trouble):
        return _code(found)
    return [
        {
            "task": one.task,
            "profile": one.profile,
            "splits": [split.model_dump() for split in one.splits],
            "problems": {problem.code: problem.count for problem in one.problems},
        }
        for one in found.checked
    ]


def _requests(found: Requests | Trouble) -> Any:
    if isinstance(found, Trouble):
        return _code(found)
    codes = [one.refusal.code for one in found.cards if one.refusal is not None]
    asked = None if found.trouble is None else found.trouble.code
    return {"stands": [one.stands for one in found.cards], "codes": codes, "asking": asked}


def _ledger(found: LedgerShown | Trouble) -> Any:
    if isinstance(found, Trouble):
        return _code(found)
    return {name: value for name, value in asdict(found).items() if name != "rows"} | {
        "rows": len(found.rows)
    }


def _health(found: HealthShown | Trouble) -> Any:
    if isinstance(found, Trouble):
        return _code(found)
    findings = [
        {"mark": one.mark, "key": one.key, "code": one.values.get("code", "")} for one in found.findings
    ]
    return {
        "findings": findings,
        "doctor": {one.name: not one.remedy for one in found.examined},
        "events": [{"event": e, "code": c} for _, e, _, c in found.events],
    }
