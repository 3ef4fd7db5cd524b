"""Long histories are read a page at a time, and without what would name a hospital, on either database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.storage.past import Wanted
from aggregator.storage.store import Store
from medveil.identity import Identity
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, ModelVersion, RoundKind
from medveil.tensors import Float32, from_safetensors
from world import SPEC, World, finish, make_plan, make_sites, make_study, play

ADMIN = Identity.generate("admin")
PLAN = make_plan([Identity.generate(f"hospital-{i}") for i in (1, 2, 3)], make_study())
NAMES = PLAN.names
FIGURES = ("auroc", "auroc_low", "never-there")


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    store = Store(where, ADMIN)
    first = ModelVersion(
        plan=PLAN.id, number=0, model="a" * 64, parent=None, round=0, survivors=(), epsilon=None, created=""
    )
    store.plans.add(PLAN, b"signed", first, 1.0)
    yield store
    store.close()


def ended(store: Store, number: int, attempt: int = 1, **told: Any) -> AttemptReport:
    key, kind = AttemptKey(PLAN.id, number, attempt), RoundKind.TRAIN
    store.plans.open_attempt(key, kind=kind, model="a" * 64, now=float(number))
    usual = {"round": number, "attempt": attempt, "kind": kind, "outcome": "done"}
    report = AttemptReport.model_validate(usual | told)
    store.plans.end_attempt(PLAN.id, report)
    return report


def test_an_attempt_is_read_as_it_was_written_and_its_hospitals_are_only_counted(store: Store) -> None:
    ended(
        store,
        1,
        seconds=3.5,
        phases={"share": 0.5, "upload": 1.0},
        advertised=NAMES,
        survivors=NAMES[:2],
        figures={"auroc": 0.9, "auroc_low": 0.8, "accuracy": 0.7},
        metric=0.9,
        update_norm=0.25,
        epsilon=1.5,
        phase_bytes={"share": (10, 20), "upload": (300, 0)},
        bytes_up=dict.fromkeys(NAMES, 7),
        sums={"positives/abnormal": (1.0,) * 16},
    )
    (one,) = store.past.attempts(PLAN.id, FIGURES, most=5)
    assert (one.place, one.done, one.opened, one.seconds) == ((1, 1), True, 1.0, 3.5)
    assert (one.metric, one.norm, one.epsilon) == (0.9, 0.25, 1.5)
    assert (one.began, one.summed) == (3, 2)
    assert one.figures == {"auroc": 0.9, "auroc_low": 0.8}
    assert one.phases == {"share": 0.5, "upload": 1.0}
    assert one.moved == {"share": (10, 20), "upload": (300, 0)}
    assert "hospital" not in repr(one)


def test_of_a_report_without_bytes_by_phase_the_bytes_of_all_hospitals_are_one_number(store: Store) -> None:
    ended(store, 1, bytes_up={NAMES[0]: 5, NAMES[1]: 6}, bytes_down={NAMES[2]: 100})
    ended(store, 2)
    first, second = store.past.attempts(PLAN.id, (), most=5)
    assert (first.moved, second.moved) == ({"": (11, 100)}, {})
    assert (second.metric, second.norm, second.began, second.phases) == (None, None, 0, {})


def test_pages_lie_beside_each_other_in_either_direction_and_are_no_longer_than_asked_for(
    store: Store,
) -> None:
    for number, attempt in ((1, 1), (1, 2), (2, 1), (3, 1), (3, 2)):
        ended(store, number, attempt, outcome="done" if attempt == 2 else "failed")
    store.plans.open_attempt(AttemptKey(PLAN.id, 4, 1), kind=RoundKind.TRAIN, model="a" * 64, now=9.0)

    def places(**where: Any) -> list[tuple[int, int]]:
        return [one.place for one in store.past.attempts(PLAN.id, (), most=2, **where)]

    assert places() == [(3, 1), (3, 2)]
    assert places(before=(3, 1)) == [(1, 2), (2, 1)]
    assert places(before=(1, 2)) == [(1, 1)]
    assert places(after=(1, 1)) == [(1, 2), (2, 1)]
    assert places(after=(3, 2)) == []


def test_the_audit_log_is_searched_in_a_window_by_actor_kind_and_subject(store: Store) -> None:
    for number in (1, 2, 3):
        ended(store, number)
    newest = store.transactions.head.number

    def found(most: int = 50, window: int = 1000, **wanted: str) -> list[int]:
        some = store.past.entries(Wanted(**wanted), before=newest + 1, window=window, most=most)
        return [entry.number for entry in some]

    assert found(most=2) == [newest, newest - 1]
    assert found(window=2, action="attempt") == [newest, newest - 1]
    assert len(found(action="attempt")) == 6
    assert len(found(action="attempt.opened")) == 3
    assert found(action="attem") == []
    assert found(actor="nobody") == found(text="%") == found(text="_ttempts") == []
    assert len(found(text=f"{PLAN.id}/2/")) == 2
    assert found(text="'; DROP TABLE audit; --") == []


def test_the_last_message_of_each_hospital_is_looked_for_in_the_newest_entries_only(store: Store) -> None:
    key = AttemptKey(PLAN.id, 1, 1)
    store.plans.open_attempt(key, kind=RoundKind.TRAIN, model="a" * 64, now=1.0)
    for number, actor in enumerate((NAMES[0], NAMES[1], NAMES[0])):
        store.plans.add_event(key, number, "advertise", b"", actor=actor)
    newest = store.transactions.head.number
    told = store.past.last_messages(before=newest + 1, window=100)
    assert {name: number for name, (number, _) in told.items()} == {NAMES[0]: newest, NAMES[1]: newest - 1}
    assert set(store.past.last_messages(before=newest + 1, window=1)) == {NAMES[0]}


def test_a_round_notes_the_length_of_its_mean_update_and_the_bytes_of_each_phase(
    build: Callable[..., World],
) -> None:
    world = build()
    sites, runs = make_sites(world), world.coordinator.runs
    play(world, sites, until=lambda: world.phase == "share")
    runs.count_bytes(world.plan.id, world.plan.names[0], up=10, down=200)
    runs.count_bytes(world.plan.id, world.plan.names[1], up=1, down=0)
    play(world, sites, until=lambda: world.phase == "upload")
    runs.count_bytes(world.plan.id, world.plan.names[0], up=3000, down=0)
    finish(world, sites)
    first = next(one for one in world.store.past.attempts(world.plan.id, (), most=9) if one.done)
    assert first.moved == {"share": (11, 200), "upload": (3000, 0)}
    before, after = (
        _weights(world, version.model) for version, _ in world.store.plans.versions(world.plan.id)[:2]
    )
    assert first.norm == pytest.approx(float(np.linalg.norm(after - before)), rel=1e-5)


def _weights(world: World, model: str) -> Float32:
    with world.blobs.open_model(model) as file:
        return from_safetensors(file.read(), SPEC)
