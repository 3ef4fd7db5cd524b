"""``medveil aggregator study amend``: what it shows, signs and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator import admin, directing
from aggregator.amending import BadAmendment
from aggregator.cli import app
from aggregator.settings import Settings, load
from aggregator.storage.open import open_blobs
from aggregator.work.versions import first_version
from medveil.errors import Error
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.reports import Order
from medveil.spoken import spoken
from medveil.tensors import to_safetensors
from world import SPEC, START, make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 8)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An aggregator with seven enrolled hospitals, and a plan of five of them that a researcher reads."""
    made = Settings(tmp_path / "aggregator", names=("fl.example.org",))
    admin.set_up_aggregator(made)
    admin.add_person(made, "reader", admin.Role.RESEARCHER, days=1.0)
    with admin.opened(made) as store:
        for one in PEOPLE:
            token = f"token-of-{one.name}"
            store.register.add_token(token, name=one.name, role="hospital", expires=2.0)
            store.register.enrol(token, name=one.name, public_key=one.public_key, now=1.0)
        plan = make_plan(PEOPLE[:5], make_study())
        first = first_version(plan, to_safetensors(START, SPEC), open_blobs(made.folder, ""), now=1.0)
        store.plans.add(plan, store.transactions.signer.sign("create-plan", plan.hash), first, 1.0)
        store.register.grant(plan.id, "reader")
    return load(made.folder)


def amend(settings: Settings, *options: str) -> str:
    result = CliRunner().invoke(app, ["study", "amend", *options, "--folder", str(settings.folder)])
    if isinstance(result.exception, Error):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def plans(settings: Settings) -> list[Plan]:
    with admin.opened(settings) as store:
        return [plan for plan, _, _ in store.plans.all()]


def test_the_admin_sees_the_difference_and_reads_out_the_new_words(settings: Settings) -> None:
    text = amend(settings, "tiny", "--add", "hospital-6", "--yes")
    before, after = plans(settings)
    assert after.before == before
    assert spoken(after.hash) in text
    assert "joins hospital-6 key" in text
    assert "5; 6 hospitals in all, 5 before" in text
    with admin.opened(settings) as store:
        assert store.register.readable("reader") == {before.id, after.id}  # who may read goes on reading
        store.log.verify()


def test_nothing_is_signed_without_a_yes(settings: Settings) -> None:
    with pytest.raises(Error) as refused:
        amend(settings, "tiny", "--remove", "hospital-5")
    assert refused.value.code == "not-confirmed"
    assert len(plans(settings)) == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["tiny"], "bad-amendment", "nobody joins"),
        (["tiny", "--add", "hospital-1"], "bad-amendment", "on the roster already"),
        (["tiny", "--remove", "hospital-6"], "bad-amendment", "not on the roster"),
        (["tiny", "--add", "stranger"], "no-hospitals", "stranger"),
        (["other", "--add", "hospital-6"], "not-a-fingerprint", ""),
        (["tiny", "--add", "hospital-6", "--add", "hospital-7"], "bad-amendment", "in common"),
        (["tiny", *(o for i in (1, 2, 3) for o in ("--remove", f"hospital-{i}"))], "bad-amendment", "roster"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    settings: Settings, options: list[str], code: str, words: str
) -> None:
    with pytest.raises(Error) as refused:
        amend(settings, *options, "--yes")
    assert refused.value.code == code
    assert words in refused.value.what
    assert len(plans(settings)) == 1


def test_the_same_change_is_offered_once(settings: Settings) -> None:
    amend(settings, "tiny", "--add", "hospital-6", "--yes")
    with pytest.raises(Error, match="already"):
        amend(settings, plans(settings)[0].id, "--add", "hospital-6", "--yes")


@pytest.mark.parametrize(("order", "said"), [("stop", "stopped"), ("withdraw", "withdrawn")])
def test_a_study_that_the_admin_has_ended_has_no_other_roster(
    settings: Settings, order: Order, said: str
) -> None:
    directing.say(settings, "tiny", order, "enough")
    with pytest.raises(BadAmendment, match=f"the study was {said} by the admin, for good"):
        amend(settings, "tiny", "--add", "hospital-6", "--yes")
    assert len(plans(settings)) == 1
