"""Large libraries are loaded without what a command does not need, and nobody else notices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medveil.errors import UnknownName
from medveil.lean import OUT_OF_SIGHT, import_alone

LOADED_LEAN = """
import sys
from medveil.lean import expect_monai, import_monai
expect_monai()
import_monai()
import monai, onnx
print(monai.found, monai.__loader__.get_source("monai") is not None, onnx.__name__, len(sys.meta_path))
"""
FOLLOWING = """
import sys
import hospital_node.plan_queue
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""
TRAINING = """
import sys
sys.path.insert(0, {folder!r})
from hospital_node import agent, computation
from test_training import films, make_study, plain, private
study, vector = make_study("small_cnn")
computation.load_reading()
computation.load_training(study)
plain(study, vector, films(4, model="small_cnn"))
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_monai_does_not_see_what_it_only_looks_for_and_others_do(tmp_path: Path) -> None:
    assert "onnx" in OUT_OF_SIGHT
    (tmp_path / "monai.py").write_text(
        "found = []\nfor name in ('onnx', 'json'):\n"
        "    try:\n        found.append(__import__(name).__name__)\n    except ImportError:\n        pass\n"
    )
    (tmp_path / "onnx.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); before = len(sys.meta_path)\n{LOADED_LEAN}"
    command = [sys.executable, "-c", f"{program}print(before)"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    *said, after, before = ended.stdout.split()
    assert (said, int(after) - int(before)) == (["['json']", "True", "onnx"], 1)  # one finder, called twice


def test_a_module_is_loaded_alone_and_is_the_one_that_its_package_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "large_package" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("from large_package.inner import Wanted\nimport colorsys\n")
    (inner / "__init__.py").write_text("from large_package.inner.one import Wanted\n")
    (inner / "one.py").write_text("from large_package.inner.two import Base\nclass Wanted(Base): ...\n")
    (inner / "two.py").write_text("class Base: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    alone = import_alone("large_package.inner.one")
    assert not {"large_package", "large_package.inner"} & set(sys.modules)
    import large_package  # type: ignore[import-not-found]

    assert large_package.Wanted is alone.Wanted
    assert import_alone("large_package.inner.one") is alone


def test_a_module_does_not_load_what_it_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_to_load.py").write_text("class Seldom:\n    real = True\n")
    (tmp_path / "lean_package").mkdir()
    (tmp_path / "lean_package" / "__init__.py").write_text("")
    (tmp_path / "lean_package" / "one.py").write_text(
        "from heavy_to_load import Seldom\ndef work(given: int | Seldom) -> int: return 2 * given\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    one = import_alone("lean_package.one", named_only={"heavy_to_load": "Seldom"})
    assert one.work(3) == 6
    assert "heavy_to_load" not in sys.modules
    import heavy_to_load  # type: ignore[import-not-found]

    assert heavy_to_load.Seldom.real


def test_one_entry_is_looked_up_without_loading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = tmp_path / "kinds_of_things"
    kinds.mkdir()
    (kinds / "__init__.py").write_text(
        "from medveil.registry import Registry\nTHINGS = Registry('thing', __name__)\n"
    )
    for name, also in (("small", ""), ("large", "THINGS.register('largest')(3)")):
        (kinds / f"{name}.py").write_text(
            f"from kinds_of_things import THINGS\nTHINGS.register({name!r})(2)\n{also}\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    from kinds_of_things import THINGS  # type: ignore[import-not-found]

    assert THINGS["small"] == 2
    assert "kinds_of_things.large" not in sys.modules
    assert THINGS["largest"] == 3  # whose module is called otherwise
    assert list(THINGS) == ["large", "largest", "small"]
    with pytest.raises(UnknownName):
        THINGS["larger"]


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        import_alone("not_installed_at_all.part")
    assert caught.value.name == "not_installed_at_all"


def test_a_node_follows_its_plans_without_what_only_private_studies_want() -> None:
    heavy = ("scipy", "dp_accounting", "torch")
    command = [sys.executable, "-c", FOLLOWING, "hospital_node.plan_queue", *heavy]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["hospital_node.plan_queue"]


@pytest.mark.slow
def test_a_node_trains_on_films_without_accountants_statistics_and_torchs_compiler() -> None:
    heavy = ("dp_accounting", "opacus.accountants", "scipy.stats", "scipy.signal", "mlflow", "pandas")
    heavy += ("torch._dynamo", "torch.distributed.tensor", "sympy")
    folder = str(Path(__file__).resolve().parents[1] / "hospital_node")
    program = TRAINING.format(folder=folder)
    command = [sys.executable, "-c", program, "hospital_node.training", *heavy]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["hospital_node.training"]
