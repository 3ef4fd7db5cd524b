"""What is told of a plan is told the same way from the row to the researcher, and old rows open."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from medveil.reports import AttemptReport, OpenAttempt, PlanStatus, Waiting
from medveil.rounds import Phase, RoundKind

AT: dict[str, Any] = {"round": 2, "attempt": 1, "kind": "train"}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "done": (
        "done",
        {
            "seconds": 61.5,
            "phases": {"advertise": 1.25, "aggregate": 0.5},
            "advertised": ["a", "b", "c"],
            "committed": ["a", "b", "c"],
            "survivors": ["a", "b", "c"],
            "bytes_up": {"a": 1000},
            "bytes_down": {"a": 2000},
            "wrong_shares": [],
            "figures": {"auroc": 0.75, "auroc/Erguß": 0.5},
            "metric": 0.75,
            "sums": {"positives/abnormal": [1.0, -0.5], "patients": [3.0]},
            "model": "1" * 64,
            "epsilon": None,
            "sum": "2" * 64,
            "proof": "3" * 64,
        },
    ),
    "before sums were kept": ("done", {"seconds": 1.0, "phases": {}, "survivors": ["a"], "metric": None}),
    "given up": ("failed", {"reason": "below-threshold", "failed_in": "upload", "certificate": "4" * 64}),
    "spoiled": ("failed", {"reason": "spoiled", "failed_in": "unmask", "spoiled_by": ["a"]}),
    "damaged": (
        "failed",
        {"reason": "damaged-segment", "failed_in": "unmask", "damaged": {"hospital": "a", "segment": 1}},
    ),
    "put back from a backup": ("failed", {"reason": "restored", "failed_in": "share"}),
    "empty": ("failed", {}),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_comes_out_of_the_status_as_it_was_stored(name: str) -> None:
    outcome, stored = ROWS[name]
    whole = {**AT, "outcome": outcome, **stored}
    report = AttemptReport.model_validate(whole)
    assert report.stored() == stored
    assert list(report.stored()) == list(stored)
    assert json.loads(report.model_dump_json()) == whole
    status = PlanStatus(
        plan="0" * 64,
        name="tiny",
        finished=False,
        hospitals=("a", "b", "c"),
        approved=("a",),
        in_reach=(),
        open=OpenAttempt(
            round=2, attempt=2, kind=RoundKind.TRAIN, phase=Phase.SHARE, answered=(), invited=()
        ),
        waiting_for=Waiting(reason="too-few-hospitals", in_reach=1, need=3),
        attempts=(report,),
    )
    told = json.loads(status.model_dump_json())
    assert told["attempts"] == [whole]
    assert told["waiting_for"] == {"reason": "too-few-hospitals", "in_reach": 1, "need": 3}
    assert PlanStatus.model_validate(told) == status


def test_a_key_of_a_later_version_is_passed_over() -> None:
    report = AttemptReport.model_validate({**AT, "outcome": "done", "seconds": 1.0, "colour": "blue"})
    assert json.loads(report.model_dump_json()) == {**AT, "outcome": "done", "seconds": 1.0}


@pytest.mark.parametrize(
    "changed",
    [
        {"seconds": float("nan")},
        {"metric": float("inf")},
        {"survivors": ["not a name"]},
        {"model": "short"},
        {"reason": "\x1b[31mred"},
        {"phases": {"\x1b[31m": 1.0}},
        {"outcome": "perhaps"},
    ],
)
def test_what_a_report_cannot_hold_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AttemptReport.model_validate({**AT, "outcome": "done", **changed})


def test_a_report_knows_whether_anything_masked_was_sent() -> None:
    early, late = (
        AttemptReport.model_validate({**AT, "outcome": "failed", "failed_in": phase})
        for phase in ("commit", "upload")
    )
    assert early.failed_early
    assert not late.failed_early
