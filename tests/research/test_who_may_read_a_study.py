"""A new study is open to the researchers that its admin names, and to nobody by oversight."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from aggregator.admin import create_plan, set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.settings import Settings
from aggregator.storage.register import UnknownPerson
from medveil.identity import Identity
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An aggregator with three hospitals and two researchers, and a study beside it."""
    made = Settings(tmp_path / "aggregator")
    set_up_aggregator(made)
    store = open_store(made)
    people = [(f"hospital-{i}", "hospital") for i in (1, 2, 3)] + [(n, "researcher") for n in ("anna", "ben")]
    for name, role in people:
        token = secrets.token_urlsafe(24)
        store.register.add_token(token, name=name, role=role, expires=time.time() + 60)
        store.register.enrol(token, name=name, public_key=Identity.generate(name).public_key, now=time.time())
    store.close()
    study, initial = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            model="small_cnn",
            size=(32, 32),
            hospitals=3,
            privacy="none",
        )
    )
    write_study(tmp_path / "study", study, initial)
    return made


@pytest.mark.parametrize(
    ("named", "may"), [((), set()), (["anna"], {"anna"}), (None, {"anna", "ben"})], ids=["none", "one", "all"]
)
def test_only_the_researchers_that_are_named_may_read_a_new_study(
    settings: Settings, named: Sequence[str] | None, may: set[str]
) -> None:
    files = settings.folder.parent / "study"
    plan = create_plan(settings, files / "study.toml", files / "initial.safetensors", [], named)
    store = open_store(settings)
    try:
        assert {name for name in ("anna", "ben") if plan.id in store.register.readable(name)} == may
    finally:
        store.close()


def test_a_researcher_who_is_not_there_is_refused_before_the_study_is(settings: Settings) -> None:
    files = settings.folder.parent / "study"
    with pytest.raises(UnknownPerson):
        create_plan(settings, files / "study.toml", files / "initial.safetensors", [], ["nobody"])
    store = open_store(settings)
    try:
        assert store.register.plan_ids() == []
    finally:
        store.close()
