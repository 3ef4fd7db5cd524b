"""Whatever classes and groups are called, MLflow takes the names of their figures."""

from __future__ import annotations

import posixpath
import re

import pytest

from medveil_research.curves import metric_name


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("auroc_low", "auroc_low"),
        ("auroc/pleural thickening", "auroc/pleural thickening"),
        ("auroc_low@sex=F", "auroc_low/sex_F"),
        ("dice/left (100 %)@age=40 to 65", "dice/left _100 __/age_40 to 65"),
        ("auroc/../x", "auroc/_/x"),
        ("auroc//x", "auroc/_/x"),
        ("auroc/über", "auroc/über"),
    ],
)
def test_a_figure_of_any_class_or_group_has_a_name_that_mlflow_takes(figure: str, name: str) -> None:
    assert metric_name(figure) == name
    assert re.match(r"^[/\w.\- ]*$", name)
    assert posixpath.normpath(name) == name
