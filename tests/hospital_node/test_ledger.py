"""The ledger file: it survives every crash without ever counting too little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hospital_node.ledger import Charge, ChargeUsed, Ledger, LedgerBusy, LedgerClosed
from medveil.study import Study
from privacy.dp.ledger import (
    BadTransition,
    BudgetExceeded,
    LedgerDamaged,
    NotRegistered,
    ScheduleUsedUp,
    State,
)
from privacy.dp.policy import NotPrivate, UnderstatedEpsilon

PLAN = "a" * 64


def study(**privacy: Any) -> Study:
    policy = {"kind": "local", "clip_norm": 0.3, "noise_multiplier": 3.288, "epsilon": 8.0} | privacy
    return Study.model_validate(
        {
            "name": "films",
            "task": "classification",
            "classes": ["normal", "abnormal"],
            "model": {
                "name": "wavelet_head",
                "tensors": [{"name": "w", "shape": [4]}],
                "initial_model": "0" * 64,
            },
            "transforms": {"profile": "xray", "size": [64, 64]},
            "training": {"rounds": 10, "local_steps": 3, "learning_rate": 1.0},
            "privacy": policy if policy["kind"] == "local" else {"kind": "none"},
            "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
        }
    )


def opened(path: Path) -> Ledger:
    ledger = Ledger.open(path)
    ledger.register(study(), plan_id=PLAN, dataset="films", cap=8.0)
    return ledger


def charge(ledger: Ledger, number: int = 1, attempt: int = 1) -> Charge:
    return ledger.charge(study(), plan_id=PLAN, round_number=number, attempt=attempt)


def test_charges_survive_a_restart_and_receipts_do_not(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.jsonl") as ledger:
        receipt = charge(ledger)
        receipt.begin()
        ledger.released(receipt)
        charge(ledger, 2)
        spent, rows = ledger.spent("films"), ledger.rows()
    with Ledger.open(tmp_path / "ledger.jsonl") as again:
        assert again.rows() == rows
        assert again.spent("films") == spent > 0
        again.verify()
        assert not again.torn


def test_a_plan_runs_to_its_last_round_under_a_cap_equal_to_its_epsilon(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        for number in range(1, 11):
            charge(ledger, number)
        assert ledger.spent("films") == ledger.committed("films") <= 8.0
        with pytest.raises(ScheduleUsedUp):
            charge(ledger, 10, attempt=2)


def test_a_repeated_attempt_takes_a_charge_and_head_room_can_be_registered(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l") as ledger:
        total = ledger.register(study(), plan_id=PLAN, dataset="films", cap=9.0, rounds=11)
        assert 8.0 < total <= 9.0
        for number in range(1, 11):
            charge(ledger, number)
        charge(ledger, 10, attempt=2)
        with pytest.raises(ScheduleUsedUp):
            charge(ledger, 10, attempt=3)


def test_registering_again_changes_nothing_and_another_schedule_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        rows = ledger.rows()
        ledger.register(study(), plan_id=PLAN, dataset="films", cap=8.0)
        assert ledger.rows() == rows
        with pytest.raises(BadTransition):
            ledger.register(study(), plan_id=PLAN, dataset="others", cap=8.0)


def test_a_second_study_on_the_same_patients_meets_the_cap(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        with pytest.raises(BudgetExceeded) as caught:
            ledger.register(study(), plan_id="b" * 64, dataset="films", cap=8.0)
        assert caught.value.asked > caught.value.cap
        assert len(ledger.rows()) == 1
        ledger.register(study(), plan_id="b" * 64, dataset="other patients", cap=8.0)


def test_a_plan_without_privacy_or_with_a_false_epsilon_is_not_registered(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l") as ledger:
        with pytest.raises(NotPrivate):
            ledger.register(study(kind="none"), plan_id=PLAN, dataset="films", cap=8.0)
        with pytest.raises(UnderstatedEpsilon):
            ledger.register(study(epsilon=1.0), plan_id=PLAN, dataset="films", cap=8.0)
        with pytest.raises(NotRegistered):
            charge(ledger)
        assert ledger.rows() == ()


def test_a_charge_with_other_noise_than_registered_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger, pytest.raises(BadTransition):
        ledger.charge(study(noise_multiplier=3.3), plan_id=PLAN, round_number=1, attempt=1)


def test_a_charge_pays_for_one_run_and_can_be_given_back_only_before_it(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        unused, used = charge(ledger, 1), charge(ledger, 2)
        ledger.void(unused)
        with pytest.raises(ChargeUsed):
            unused.begin()
        used.begin()
        with pytest.raises(ChargeUsed):
            used.begin()
        with pytest.raises(BadTransition):
            ledger.void(used)
        ledger.released(used)
        assert [r.entry.state for r in ledger.rows()][-2:] == [State.RUNNING, State.RELEASED]


def test_a_crash_at_any_byte_of_a_row_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "l"
    lengths, spent = [], []
    with opened(path) as ledger:
        for number in (1, 2):
            charge(ledger, number).begin()
            lengths.append(path.stat().st_size)
            spent.append(ledger.spent("films"))
    content = path.read_bytes()
    for end in range(lengths[0], len(content) + 1, 7):
        path.write_bytes(content[:end])
        with Ledger.open(path) as ledger:
            assert ledger.spent("films") >= spent[0]
            assert ledger.torn == (not content[:end].endswith(b"\n"))
            charge(ledger, 3)
            ledger.verify()
        with Ledger.open(path) as ledger:
            assert not ledger.torn


def test_a_killed_process_has_every_acknowledged_charge_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "l"
    opened(path).close()
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_ledger import Ledger, charge\n"
        "ledger = Ledger.open(Path(sys.argv[1]))\n"
        "for number in range(1, 11):\n"
        "    charge(ledger, number).begin()\n"
        "    print(number, flush=True)\n"
        "sys.stdin.read()\n"
    )
    here = Path(__file__).parent
    folders = [str(here), str(here.parents[1]), str(here.parents[1] / "platform")]
    command = [sys.executable, "-c", script, str(path), *folders]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    assert acknowledged == ["1", "2", "3", "4"]
    with Ledger.open(path) as ledger:
        states = [r.entry.state for r in ledger.rows()]
        assert states.count(State.RUNNING) >= 4


def test_a_row_is_synced_in_file_and_folder_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.path.isdir(f"/proc/self/fd/{descriptor}"))

    with opened(tmp_path / "l") as ledger:
        monkeypatch.setattr(os, "fsync", fsync)
        charge(ledger)
        assert synced == [False, True]


@pytest.mark.parametrize("broken", ["write", "fsync"])
def test_a_failing_disk_stops_the_ledger_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    ledger = opened(tmp_path / "l")

    def fail(*_: object) -> int:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(LedgerClosed):
            charge(ledger)
    with pytest.raises(LedgerClosed):
        charge(ledger)
    with Ledger.open(tmp_path / "l") as again:
        again.verify()
        assert len(again.rows()) == (
            1 if broken == "write" else 2
        )  # written but unsynced counts: never too little


def test_two_processes_cannot_hold_one_ledger(tmp_path: Path) -> None:
    with opened(tmp_path / "l"), pytest.raises(LedgerBusy):
        Ledger.open(tmp_path / "l")
    Ledger.open(tmp_path / "l").close()


def test_an_edited_row_stops_the_ledger_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with opened(path) as ledger:
        charge(ledger, 1)
        charge(ledger, 2)
    lines = path.read_text().splitlines(keepends=True)
    value = json.loads(lines[1]) | {"steps": 1}
    path.write_text(lines[0] + json.dumps(value) + "\n" + lines[2])
    with pytest.raises(LedgerDamaged) as caught:
        Ledger.open(path)
    assert caught.value.row == 2
    path.write_text("not json\n")
    with pytest.raises(LedgerDamaged):
        Ledger.open(path)


def test_verify_sees_a_file_that_was_replaced_under_a_running_node(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with opened(path) as ledger:
        older = path.read_bytes()
        charge(ledger)
        ledger.verify()
        path.write_bytes(older)
        with pytest.raises(LedgerDamaged) as caught:
            ledger.verify()
        assert caught.value.row == 2


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    opened(tmp_path / "l").close()
    assert (tmp_path / "l").stat().st_mode & 0o077 == 0
