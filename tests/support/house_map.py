"""Writes the map of docs/architecture.md from the code: rooms, arrows, modules, and the walks through them.

Run it as ``python tests/support/house_map.py`` after moving a module or a function that a walk names.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import grimp

from rooms import FOLDERS, ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- {} (written by tests/support/house_map.py) -->", "<!-- end of {} -->"
WALKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Study to signed plan": (
        "A study file becomes a plan that the admin signs; each hospital signs what it was shown.",
        (
            "medveil.study.read_study",
            "aggregator.admin.create_plan",
            "aggregator.storage.plans.Plans.add",
            "aggregator.rounds.instructions.Instructions.offers",
            "hospital_node.operator.offers",
            "hospital_node.governance.read_offer",
            "hospital_node.governance.check_terms",
            "hospital_node.operator.approve_plan",
            "medveil.plan.sign_approval",
            "aggregator.rounds.intake.Intake.approve",
            "medveil.plan.check_approvals",
        ),
    ),
    "DICOM to batch": (
        "A folder with a manifest becomes patients' tensors; patients are drawn for a step. No tag goes on.",
        (
            "hospital_node.cohort.ImagesFolder.reading",
            "medveil_imaging.sources.lines.open_table",
            "medveil_imaging.sources.lines.Table.lines",
            "medveil_imaging.sources.manifest.usable_rows",
            "medveil_imaging.sources.site.read_site",
            "medveil_imaging.sources.read.read_film",
            "medveil_imaging.sources.dicom.film.read_dicom_film",
            "medveil_imaging.transforms.film_transform",
            "hospital_node.training.gradients.draw",
        ),
    ),
    "Tensor to wire": (
        "Patients' gradients become an update, and the update a masked one: only that can become bytes.",
        (
            "hospital_node.computation.Computation.prepare",
            "hospital_node.training.checked.train",
            "hospital_node.training.run.train_unchecked",
            "hospital_node.training.clipped_sum.add_clipped_sum",
            "hospital_node.training.optimizer.PatientOptimizer.add_noise",
            "privacy.secagg.vector.masked_update",
            "privacy.secagg.vector.MaskedUpdate.segments",
            "hospital_node.transport.Transport.segment",
            "hospital_node.transport.Transport.message",
        ),
    ),
    "Message to store": (
        "A hospital's message passes route, coordinator's thread, state machine and one transaction, which "
        "it shares with those that came together with it.",
        (
            "aggregator.web.connections.run",
            "aggregator.web.routes.hospitals.message",
            "aggregator.web.callers.Callers.admit",
            "aggregator.web.exchanges.take_message",
            "aggregator.web.together.Messages.take",
            "aggregator.rounds.coordinator.Coordinator.receive_together",
            "aggregator.rounds.intake.Intake.receive",
            "privacy.secagg.server.receive",
            "aggregator.rounds.runs.Runs.record",
            "aggregator.storage.plans.Plans.add_event",
            "aggregator.storage.transactions.Transactions.change",
            "aggregator.rounds.instructions.Instructions.work",
        ),
    ),
    "Sum to report": (
        "Masked segments become a sum, the sum a model version and figures, and these a page.",
        (
            "aggregator.rounds.publishing.Publishing.go_on",
            "aggregator.work.unmasking.sum_segment",
            "privacy.encoding.decode",
            "aggregator.work.versions.make",
            "medveil.strategies.advance",
            "aggregator.storage.plans.Plans.end_attempt",
            "hospital_node.lineage.Lineage.reach",
            "aggregator.rounds.status.PlanReader.status",
            "medveil_research.client.Client.status",
            "medveil_research.results.from_status",
            "medveil_research.report.page.write_report",
        ),
    ),
}
"""Name of a walk → what travels, and the functions it goes through, in order."""


def rooms() -> list[str]:
    """Every folder with modules, as a dotted name."""
    found = []
    for package, folder in FOLDERS.items():
        inits = sorted((ROOT / folder).rglob("__init__.py"))
        for path in (p.parent for p in inits if "migrations" not in p.parts):
            found.append(".".join([package, *path.relative_to(ROOT / folder).parts]))
    return found


def room_of(module: str, known: list[str]) -> str:
    """The innermost room that a module stands in."""
    return max((r for r in known if module == r or module.startswith(f"{r}.")), key=len)


def arrows(known: list[str]) -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    graph = grimp.build_graph(*FOLDERS)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = room_of(module, known), room_of(imported, known)
            if pair[0] != pair[1]:
                found[pair] += 1
    return found


def drawing(known: list[str]) -> str:
    """The aggregator's rooms and the other packages, with arrows for imports, as Mermaid.

    Everything leans on ``medveil``: those arrows are left out.
    """

    def shown(room: str) -> str:
        first, *rest = room.split(".")
        return ".".join([first, *rest[:1]]) if first == "aggregator" else first

    pairs = {(shown(a), shown(b)) for a, b in arrows(known)}
    pairs = {(a, b) for a, b in pairs if a != b and "medveil" not in (a, b)}
    lines = [f"  {a.replace('.', '_')}[{a}] --> {b.replace('.', '_')}[{b}]" for a, b in sorted(pairs)]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def file_of(module: str) -> Path:
    """The file of a dotted name."""
    package, *rest = module.split(".")
    path = ROOT.joinpath(FOLDERS[package], *rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def sentence(text: str | None) -> str:
    """The first sentence of a docstring, without the marks of its markup."""
    first = " ".join((text or "").strip().split("\n\n")[0].split())
    first = re.sub(r":(?:class|mod|func|meth|attr):`~?([^`]+)`", r"`\1`", first).replace("``", "`")
    return first.replace("|", "\\|")


def docstring(path: Path) -> str | None:
    """Of a module, which is not parsed beyond it: all of them together would take a second."""
    text = path.read_text(encoding="utf-8")
    begin, _, rest = text.partition('"""')
    return ast.get_docstring(ast.parse(f'"""{rest.partition(chr(34) * 3)[0]}"""')) if not begin else None


def module_table(known: list[str]) -> str:
    """Every module with what it owns, by room."""
    parts = []
    for room in known:
        folder = file_of(room).parent
        modules = sorted(p for p in folder.glob("*.py") if p.name != "__init__.py")
        rows = [f"| `{p.stem}` | {sentence(docstring(p))} |" for p in modules]
        title = sentence(docstring(file_of(room)))
        relative = folder.relative_to(ROOT).as_posix()
        head = [f"### `{relative}`", "", *([title, ""] if title else [])]
        parts.append("\n".join([*head, *(["| module | owns |", "|---|---|", *rows] if rows else [])]))
    return "\n\n".join(parts).replace("\n\n\n", "\n\n")


def function(name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef:
    """A function, method or class by its dotted name. Raises: LookupError."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        path = file_of(".".join(parts[:cut]))
        if path.exists():
            node: ast.AST = ast.parse(path.read_text())
            for part in parts[cut:]:
                body = getattr(node, "body", [])
                node = next((n for n in body if getattr(n, "name", None) == part), ast.Pass())
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                return node
            break
    raise LookupError(f"a walk names {name}, which does not exist")


def walk(title: str) -> str:
    """One walk as a table: each function, what it gives and what it does."""
    travels, names = WALKS[title]
    rows = []
    for name in names:
        node = function(name)
        gives = "" if isinstance(node, ast.ClassDef) or node.returns is None else ast.unparse(node.returns)
        gives = gives.replace("|", "\\|") or "–"
        rows.append(f"| `{name}` | `{gives}` | {sentence(ast.get_docstring(node))} |")
    head = [f"### {title}", "", travels, "", "| function | gives | what it does |", "|---|---|---|"]
    return "\n".join([*head, *rows]).replace("`–`", "–")


def sections() -> dict[str, str]:
    """The written parts of the page by name."""
    known = rooms()
    return {
        "map": "\n\n".join([drawing(known), module_table(known)]),
        "walks": "\n\n".join(map(walk, WALKS)),
    }


def page() -> str:
    """The whole page with its written parts as the code has them now."""
    text = PAGE.read_text(encoding="utf-8")
    for name, written in sections().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{written}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
