"""The house keeps its measure: short files, classes, functions; no import circle; one word for one thing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from rooms import FOLDERS, ROOT

LONGEST_FILE, LONGEST_FUNCTION = 500, 50
MOST_METHODS, MOST_PARAMETERS = 25, 8
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
FROZEN = "aggregator/migrations/"
"""What a migration says can never change again, so nothing is gained by dividing it."""
ROAD = (
    "aggregator/admin.py",
    "aggregator/rounds/publishing.py",
    "aggregator/rounds/runs.py",
    "aggregator/rounds/status.py",
    "aggregator/storage/plans.py",
    "aggregator/web/routes/people.py",
    "platform/medveil/reports.py",
    "platform/medveil_research/client.py",
    "platform/medveil_research/consortium.py",
    "platform/medveil_research/local_consortium.py",
    "platform/medveil_research/report/page.py",
    "platform/medveil_research/results.py",
    "platform/medveil_research/shared_study.py",
)
"""From the aggregator's row to the researcher's page: typed all the way."""
LOOSE = {
    ("aggregator/storage/plans.py", "report_in"): "reads the row's own JSON into its type",
    ("platform/medveil/reports.py", "stored"): "writes that JSON",
    ("platform/medveil/reports.py", "_only_what_was_set"): "writes that JSON",
    ("aggregator/web/routes/people.py", "description"): "the OpenAPI document",
    ("aggregator/web/routes/people.py", "audit"): "entries of the audit log, which are no reports",
}
GONE = {
    "Desk": "Computation at the node, Service at the aggregator",
    "Office": "PlanQueue",
    "Kept": "Unsent",
    "Seen": "SeenHead",
    "Made": "a name that says what was made",
    "glance": "a name that says what is read",
    "hurry": "a name that says what ends",
    "_told": "a name that says what is told",
    "_behind": "a name that says what is looked up",
    "_blame": "a name that says what is reported",
}
"""Words that had several meanings or none, and what stands for them now."""


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def definitions() -> list[tuple[str, ast.AST]]:
    """Every class and function; only statements hold them."""
    found: list[tuple[str, ast.AST]] = []
    for path in sources(*FOLDERS.values()):
        if name_of(path).startswith(FROZEN):
            continue
        waiting: list[ast.AST] = [tree(path)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, DEFINITIONS):
                found.append((name_of(path), node))
            for block in BLOCKS:
                waiting += getattr(node, block, ())
    return found


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    yield from ((file, node) for file, node in definitions() if isinstance(node, kinds))


def test_no_file_is_longer_than_500_lines() -> None:
    long = {name_of(p): len(p.read_text().splitlines()) for p in sources(*FOLDERS.values(), "tests")}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}


def test_no_class_has_more_than_25_public_methods() -> None:
    found = {}
    for file, node in nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        methods = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        found[file, node.name] = sum(not n.name.startswith("_") for n in methods)
    assert {which: number for which, number in found.items() if number > MOST_METHODS} == {}


def test_no_function_has_more_than_50_lines_or_8_parameters() -> None:
    too_long, too_many = {}, {}
    for file, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        number = sum(a.arg not in ("self", "cls") for a in given)
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > LONGEST_FUNCTION:
            too_long[file, node.name] = lines
        if number > MOST_PARAMETERS:
            too_many[file, node.name] = number
    assert (too_long, too_many) == ({}, {})


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(*FOLDERS)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(" imports ".join(reversed(circle.args[1])))


def test_the_road_from_the_row_to_the_page_is_typed() -> None:
    loose = re.compile(r"\b(dict|Mapping)\[str, (Any|object)\]")
    found = set()
    for file in ROAD:
        for node in ast.walk(tree(ROOT / file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and loose.search(ast.unparse(node)):
                found.add((file, node.name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                assert not loose.search(ast.unparse(node.annotation)), file
    assert found == set(LOOSE)


def test_words_that_meant_several_things_are_gone() -> None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    defined = {(getattr(node, "name", ""), file) for file, node in nodes(*kinds)}
    assert {(file, word, GONE[word]) for word, file in defined if word in GONE} == set()
