"""The tables of docs/protocol.md, read out of the code.

python tests/support/protocol_tables.py      writes them into the page again
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from medveil.errors import Error
from medveil.identity import BadSignature
from medveil.messages import BadMessage
from medveil.rounds import RoundKind
from privacy import encoding
from privacy.encoding import EncodingParams
from privacy.secagg import checkword, closing, graph, keys, keystream, node, server, shamir
from privacy.secagg.keys import Context, Setting
from privacy.secagg.messages import MESSAGES, AggregatorMessage, Certificate
from privacy.secagg.server import ANSWERS, EXPECTS, NEXT, ServerState

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
STEPS = (node.advertise, node.share, node.ready, node.commit, node.upload, node.agree, node.unmask)


def tables() -> dict[str, str]:
    """Name of a marked place in the page → its table."""
    return {
        "node messages": _node_messages(),
        "aggregator messages": _aggregator_messages(),
        "aggregator states": _aggregator_states(),
        "node states": _node_states(),
        "refusals": _refusals(),
        "errors": _errors(),
        "thresholds": _thresholds(),
        "lanes": _lanes(),
        "forgery": _forgery(),
        "graph": _graph(),
    }


def page_with_tables(text: str) -> str:
    """The page with every marked table made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, name
    return text


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _node_messages() -> str:
    rows = []
    for name, kind in MESSAGES.items():
        own = [f for f in kind.model_fields if f not in ("sender", "signature")]
        rows.append((f"`{name}`", _first_line(kind), _code(own) or "–", f"`{kind.label}`"))
    head = ("message", "what it says", "fields beside `sender` and `signature`", "label of the signature")
    return _table(head, rows)


def _aggregator_messages() -> str:
    kinds = (*get_args(AggregatorMessage), Certificate)
    rows = [(f"`{k.__name__}`", _first_line(k), _code(k.model_fields)) for k in kinds]
    return _table(("view", "what it shows", "fields"), rows)


def _aggregator_states() -> str:
    roster = dict.fromkeys(range(1, 13), b"")
    setting = Setting(Context(b"", 1, 1, RoundKind.TRAIN, b""), roster, min_hospitals=4, colluders=2)
    advertised = dict.fromkeys(range(1, 11), None)
    rows = []
    for phase, following in NEXT.items():
        needed = ServerState(setting, phase=phase, advertised=advertised).needed  # type: ignore[arg-type]
        kind = EXPECTS[phase].__name__
        rows.append((f"`{phase}`", f"`{kind}`", f"`{ANSWERS[phase]}`", needed, f"`{following}`"))
    head = (
        "phase",
        "takes",
        "collected in",
        "needed (roster of 12, 10 advertised, c = 2, minimum 4)",
        "then",
    )
    return _table(head, rows)


def _node_states() -> str:
    rows = []
    for step in STEPS:
        hints = get_type_hints(step)
        result = hints.pop("return")
        parts = get_args(result) or (result,)
        given = [t.__name__ for name, t in hints.items() if name in ("state", "party")]
        seen = [t.__name__ for name, t in hints.items() if name == "seen"]
        left = [t.__name__ for t in parts if is_dataclass(t)]
        says = [t.__name__ for t in parts if not is_dataclass(t)]
        rows.append(
            (
                f"`{step.__name__}`",
                _code(given),
                _code(seen) or "–",
                _code(left) or "same",
                _code(says) or "–",
            )
        )
    return _table(("step", "from state", "sees", "to state", "sends"), rows)


def _refusals() -> str:
    tree = ast.parse(inspect.getsource(node))
    rows = []
    for function in (f for f in tree.body if isinstance(f, ast.FunctionDef)):
        for call in (c for c in ast.walk(function) if isinstance(c, ast.Call)):
            if getattr(call.func, "id", "") == "Refused":
                reason = call.keywords[0].value
                assert isinstance(reason, ast.Constant)
                rows.append((f"`{function.name.lstrip('_')}`", reason.value))
    return _table(("in", "a node refuses because"), rows)


def _errors() -> str:
    rooms = (checkword, closing, encoding, keys, keystream, node, server, shamir)
    kinds = [BadMessage, BadSignature]
    for room in rooms:
        found = (t for _, t in inspect.getmembers(room, inspect.isclass) if t.__module__ == room.__name__)
        kinds += [t for t in found if issubclass(t, Error)]
    return _table(("code", "when"), sorted((f"`{k.code}`", _first_line(k)) for k in kinds))


def _thresholds() -> str:
    pairs = [(3, 0), (5, 1), (10, 2), (20, 5), (50, 10), (100, 20)]
    rows = []
    for m, c in pairs:
        setting = Setting(
            Context(b"", 1, 1, RoundKind.TRAIN, b""),
            dict.fromkeys(range(1, m + 1), b""),
            min_hospitals=max(3, c + 2),
            colluders=c,
        )
        t, closing = setting.threshold(m), setting.closing(m)
        rows.append((m, c, t, setting.quorum(m), closing, m - setting.least(m)))
    return _table(("n = m", "c", "t", "q", "a", "may vanish after Advertise"), rows)


def _lanes() -> str:
    rows = []
    for bits, lanes in sorted(encoding.LANES.items()):
        steps = [EncodingParams(1, 0, bits, 1.0, 1, cohort).steps for cohort in (3, 10, 50, 128)]
        rows.append((bits, lanes, f"{8 / lanes:.2f}", *steps))
    return _table(
        ("lane bits", "lanes a word", "bytes per parameter", "L, U=3", "U=10", "U=50", "U=128"), rows
    )


def _forgery() -> str:
    rows = []
    for bits in sorted(encoding.LANES):
        chances = []
        for cohort in (10, 50, 128, 2000):
            largest = 2 * EncodingParams(1, 0, bits, 1.0, 1, cohort).steps * cohort
            chances.append(f"2^{forgery_exponent(largest):.1f}")
        rows.append((bits, *chances))
    return _table(("lane bits", "U=10", "U=50", "U=128", "U=2000"), rows)


def forgery_exponent(largest_lane_sum: int) -> float:
    """The bound that :mod:`privacy.secagg.checkword` proves, as a power of two (-33 or more)."""
    v = largest_lane_sum.bit_length() - 1
    return max(v - 64 + math.log2(33 - v / 2), -33.0)


def _graph() -> str:
    rows = []
    for m, c in ((129, 0), (200, 0), (200, 50), (500, 50), (1000, 100), (2000, 200)):
        setting = Setting(
            Context(b"", 1, 1, RoundKind.TRAIN, b""),
            dict.fromkeys(range(1, m + 1), b""),
            min_hospitals=max(3, c + 2),
            colluders=c,
            mask_graph="hidden",
        )
        p = graph.edge_limit(setting, m) / graph.EVERY_EDGE
        rows.append((m, c, setting.least(m) - c, f"{p:.3f}", m - 1, round(p * (m - 1))))
    head = ("m", "c", "fewest honest survivors", "p", "neighbours, complete", "hidden (mean)")
    return _table(head, rows)


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
