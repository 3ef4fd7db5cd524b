"""Study files and results that an earlier version wrote open unchanged.

The files in tests/vectors/earlier were written before tasks and profiles were files of their own; a plan that
was signed over such a study goes on only as long as its hash stays.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medveil.metrics import released
from medveil.strategies import strategy_of
from medveil.study import read_study
from medveil_research.report.page import render
from medveil_research.results import read_result, write_result
from medveil_research.study_file import to_toml

EARLIER = Path(__file__).resolve().parents[1] / "vectors" / "earlier"
HASHES: dict[str, str] = json.loads((EARLIER / "hashes.json").read_text())


@pytest.mark.parametrize("name", list(HASHES))
def test_a_study_of_an_earlier_version_keeps_its_hash_and_its_text(name: str) -> None:
    study = read_study(EARLIER / f"{name}.toml")
    assert study.hash.hex() == HASHES[name]
    assert to_toml(study) == (EARLIER / f"{name}.toml").read_text(encoding="utf-8")
    assert released(study)
    assert strategy_of(study)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("classification", ("tell normal from pneumonia in X-ray images.", "AUROC is the chance")),
        ("segmentation", ("outline anterior, posterior in MR images.", "Dice measures the overlap")),
    ],
)
def test_a_result_of_an_earlier_version_makes_its_report(task: str, said: tuple[str, ...]) -> None:
    path = EARLIER / f"result_{task}.json"
    written, result = json.loads(path.read_text()), read_result(path)
    assert result.headline == {"classification": "auroc", "segmentation": "dice"}[task]
    assert result.metric == written["federated"]["metric"]
    page = render(result)
    for words in said:
        assert words in page


@pytest.mark.parametrize("file", sorted(EARLIER.glob("result_*.json")), ids=lambda file: file.stem)
def test_a_result_of_an_earlier_version_is_written_with_the_same_keys_but_one(
    file: Path, tmp_path: Path
) -> None:
    result = read_result(file)
    assert result.federated.exact is not None
    write_result(result, tmp_path / "result.json")
    before, after = (json.loads(path.read_text()) for path in (file, tmp_path / "result.json"))
    before["federated"]["exact"] = before["federated"].pop("desk")
    assert after == before
