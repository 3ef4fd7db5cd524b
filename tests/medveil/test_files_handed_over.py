"""A file from somebody else costs little to refuse, whatever is in it, and is refused by name."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.witnesses import Witness
from medveil.bounds import STORED
from medveil.errors import BadFile
from medveil.handed import MOST_DEPTH, read_json, read_toml, read_whole
from medveil.plan import BadPlan, Plan, parse_plan, stored_plan
from medveil.study import Study, read_study, too_much
from medveil_research.results import Result, read_result
from medveil_research.study_file import to_toml
from tries import tries
from world import make_plan, make_study

MEMORY = 64 * 2**20
TRAINING = {"rounds": 2, "local_steps": 1, "learning_rate": 1.0}
SEVERAL = ("'" * 3, '"' * 3)
BOMBS = {
    "a key of 10,000 parts": ".".join("a" * 10_000) + " = 1",
    "a key of quoted parts": " . ".join(['"a"'] * 2_000) + " = 1",
    "a table of 2,000 parts": "[" + ".".join("a" * 2_000) + "]",
    "lists in lists": "a = " + "[" * 100_000,
    "tables in tables": "a = " + "{b = " * 50_000,
    "over several lines": "a = [\n" * 3 + "[\n" * 50_000,
    "5,000 digits": "a = " + "9" * 5_000,
    "5,000 digits in a list": "a = [1, 2, " + "9" * 5_000 + "]",
    "5,000 digits with lines between": "a = " + "9_" * 3_000 + "9",
    "hexadecimal digits": "a = 0x" + "f" * 100_000,
    "a key of one long name": "a" * 100_000 + " = 1",
    "after a text": 'a = "x"\n' + ".".join("b" * 5_000) + " = 1",
    "after a text with a quote in it": "a = " + SEVERAL[1] + 'x\\""""\n' + ".".join("b" * 5_000) + " = 1",
    "after a comment": "# it's\n" + ".".join("b" * 5_000) + " = 1",
    "after a literal": "a = 'c:\\'\n" + ".".join("b" * 5_000) + " = 1",
    "after many quotes": "a = " + SEVERAL[0] + "x" + "'" * 5 + "\n" + ".".join("b" * 5_000) + " = 1",
    "more than a mebibyte": "a = 1\n" * 200_000,
    "no text": "\x00\x01",
    "half a value": "a = ",
    "nothing closes": 'a = """',
}


def cost_of(path: Path) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(BadFile):
            read_toml(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_study_file_that_would_explode_is_refused_before_it_is_parsed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(BOMBS[kind], encoding="utf-8", newline="")
    assert cost_of(path) < MEMORY
    with pytest.raises(BadFile, match=r"study\.toml cannot be used"):
        read_study(path)


@pytest.mark.parametrize(
    "line",
    [
        "[a{}" + ".a" * (MOST_DEPTH - 1) + "]",
        pytest.param("a{}" + ".a" * (MOST_DEPTH - 1) + "=1", marks=pytest.mark.slow),
        pytest.param("a{}=1", marks=pytest.mark.slow),
    ],
)
def test_the_widest_file_costs_a_bounded_amount_refused_or_not(tmp_path: Path, line: str) -> None:
    path, lines, length = tmp_path / "study.toml", list[str](), 0
    while length < 200_000:
        lines.append(line.format(len(lines)))
        length += len(lines[-1]) + 1
    path.write_text("\n".join(lines))
    tracemalloc.start()
    with contextlib.suppress(BadFile):
        read_toml(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MEMORY


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\xef\xbb\xbfa = 1", b"a = '\xc3'"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "study.toml").write_bytes(data)
    with pytest.raises(BadFile):
        read_toml(tmp_path / "study.toml")


@settings(deadline=None, max_examples=tries(300))
@given(st.text(alphabet="ab.[]{}=,'\"\\#\n 19_", max_size=60))
def test_what_the_walk_lets_through_is_parsed_or_refused_and_nothing_else(
    tmp_path_factory: Any, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", newline="")
    with contextlib.suppress(BadFile):
        read_toml(path)


def test_texts_may_hold_whatever_looks_dangerous_outside_of_them(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    inside = ". " * 500 + "[" * 500 + "9" * 500
    lines = (
        f'a = "{inside}"',
        f"b = '{inside}'",
        f"c = {SEVERAL[0]}\n{inside}\n'x' \\{SEVERAL[0]}",
        f'd = {SEVERAL[1]}\n{inside}\n"x" \\\\{SEVERAL[1]} # {inside}',
        'e = "\\"" # ' + inside,
        "f = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]",
        "g = [{a.b = 1}, {a.b = 2}]",
    )
    path.write_text("\n".join(lines))
    found = read_toml(path)
    assert found["a"] == found["b"] == inside
    assert len(found["f"]) == 12


def test_a_study_that_was_written_is_read_again(tmp_path: Path) -> None:
    study = make_study(
        description="Zeile 1\nZeile 2\t– [ward A], see [1]. Ends [/ward].", classes=("none", "finding [1]")
    )
    (tmp_path / "study.toml").write_text(to_toml(study), encoding="utf-8")
    assert read_study(tmp_path / "study.toml").hash == study.hash


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"description": "a\x1b[2J"}, "description"),
        ({"description": "a\u202eb"}, "description"),
        ({"classes": ("normal", "ab\nnormal")}, "classes"),
        ({"classes": ("normal", "x" * 61)}, "classes"),
        ({"classes": ("normal", " ")}, "classes"),
        ({"classes": ("normal", "zero\u200bwidth")}, "classes"),
        ({"training": {"rounds": 2, "local_steps": 10**12, "learning_rate": 1.0}}, "local_steps"),
        ({"training": {"rounds": 2, "local_epochs": 10**12, "learning_rate": 1.0}}, "local_epochs"),
        ({"training": {"rounds": 10_000, "local_steps": 1_001, "learning_rate": 1.0}}, "local_steps"),
        ({"training": TRAINING | {"batch_images": 10**9}}, "batch_images"),
        ({"transforms": {"profile": "mri", "size": (1024,) * 3, "spacing_mm": (1, 1, 1)}}, "transforms.size"),
        ({"strategy": {"options": {"x\x1b": 1.0}}}, "strategy.options"),
        ({"cohort": {"min_hospitals": 10**100}}, "cohort"),
    ],
)  # fmt: skip
def test_a_study_beyond_the_bounds_is_refused_when_it_is_read_and_when_it_is_offered(
    changes: dict[str, Any], place: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=place):
        make_study(**changes)
    plan = make_plan_with(changes)
    with pytest.raises(BadPlan) as refused:
        parse_plan(plan)
    assert place in refused.value.what
    assert "\x1b" not in refused.value.what
    if place == "cohort":
        return
    kept = stored_plan(json.dumps(plan))  # an earlier version has signed it
    assert too_much(kept.study) is not None


def make_plan_with(changes: dict[str, Any]) -> dict[str, Any]:
    from medveil.identity import Identity

    plan = make_plan([Identity.generate(f"hospital-{i}") for i in range(1, 5)], make_study())
    content = json.loads(plan.model_dump_json())
    for name, part in changes.items():
        given = json.loads(json.dumps(part))
        content["study"][name] = {**content["study"][name], **given} if isinstance(given, dict) else given
    if "local_epochs" in content["study"]["training"] and "local_epochs" in changes.get("training", {}):
        content["study"]["training"]["local_steps"] = None
    return content


@pytest.mark.parametrize("shape", [[2**31, 2], [2] * 40, [10**4000], [2**40], [2**16, 2**16]])
def test_a_model_of_more_parameters_than_any_machine_holds_is_refused(shape: list[int]) -> None:
    content = make_plan_with({})
    content["study"]["model"]["tensors"][0]["shape"] = shape
    with pytest.raises(BadPlan):
        parse_plan(content)
    with pytest.raises(ValueError, match="tensors"):
        Study.model_validate(content["study"])


def test_what_was_signed_before_is_still_read_from_disk_and_has_the_same_hash() -> None:
    content = make_plan_with({"description": "from an earlier version\x1b[2J"})
    old = stored_plan(json.dumps(content))
    assert old.study.description.endswith("\x1b[2J")
    assert old.hash == Plan.model_validate(content, context=STORED).hash


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "9" * 5000, '{"medveil": "\\ud800"}', "", "{}", "\x00", '{"a":' * 10**5]
)
def test_results_and_heads_of_any_bytes_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "[x].json"
    path.write_text(text)
    for read in (read_result, Witness.read, lambda p: read_json(p, Result, 1000)):
        with pytest.raises(BadFile, match=r"\[x\]\.json"):
            read(path)


def test_a_file_longer_than_its_kind_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(6 * 2**30)
    tracemalloc.start()
    with pytest.raises(BadFile, match="longer than 1,000 bytes"):
        read_whole(path, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    for missing in (tmp_path, tmp_path / "absent", Path("zero\0byte"), tmp_path / ("x" * 5000)):
        with pytest.raises(BadFile):
            read_whole(missing, 1000)
