"""The ledger file: it survives every crash without ever counting too little."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from four_weights import four_weights
from hospital_node.ledger import Charge, ChargeUsed, Ledger, LedgerBusy, LedgerClosed, LedgerUnreadable
from medveil.study import Study
from privacy.dp.accounting import Event, epsilon
from privacy.dp.ledger import (
    BadTransition,
    BudgetExceeded,
    LedgerDamaged,
    NotRegistered,
    ScheduleUsedUp,
    State,
)
from privacy.dp.policy import NotPrivate, Split, UnderstatedEpsilon

PLAN = "a" * 64


def study(**privacy: Any) -> Study:
    policy = {
        "kind": "local",
        "clip_norm": 0.3,
        "noise_multiplier": 3.288,
        "evaluation_multiplier": 2.0,
        "epsilon": 8.0,
    } | privacy
    return four_weights(policy if policy["kind"] == "local" else {"kind": "none"})


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


def test_a_schedule_is_charged_round_by_round_and_split_by_split(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        one = ledger.charge(study(), plan_id=PLAN, round_number=11, attempt=1, split=Split.TEST)
        assert one.event == Event(2.0, 1.0, 1)
        with pytest.raises(ScheduleUsedUp):
            ledger.charge(study(), plan_id=PLAN, round_number=11, attempt=2, split=Split.TEST)
        for number in range(1, 11):
            paid = ledger.charge(study(), plan_id=PLAN, round_number=number, attempt=1, split=Split.VAL)
            assert paid.event == Event(2.0 * 10**0.5, 1.0, 1)
        evaluated = ledger.spent("films")
        assert evaluated == pytest.approx(epsilon([Event(2.0, 1.0, 1)], 1e-5))  # the splits do not add up
        charge(ledger)
        assert ledger.spent("films") == max(evaluated, epsilon([Event(3.288, 1.0, 3)], 1e-5))


def test_a_crash_costs_no_round_even_under_a_cap_equal_to_the_epsilon(tmp_path: Path) -> None:
    """Ten rounds, the node killed once before and once while each of them is computed: ten charges."""
    opened(tmp_path / "l").close()
    for number in range(1, 11):
        with Ledger.open(tmp_path / "l") as ledger:
            charge(ledger, number)
        with Ledger.open(tmp_path / "l") as ledger:
            charge(ledger, number).begin()
        with Ledger.open(tmp_path / "l") as ledger:
            again = charge(ledger, number, attempt=2)
            again.begin()
            again.end()
            assert again.entry.state is State.RELEASED
            ledger.verify()
    with Ledger.open(tmp_path / "l") as ledger:
        assert ledger.spent("films") == pytest.approx(epsilon([Event(3.288, 1.0, 30)], 1e-5))
        with pytest.raises(ScheduleUsedUp):
            charge(ledger, 10, attempt=3)


def test_what_may_have_left_is_never_taken_up_again(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        first = charge(ledger)
        first.begin()
        first.end()
        assert charge(ledger, attempt=2).entry.charge == 2  # another noise in this very process
    with Ledger.open(tmp_path / "l") as ledger:
        open_one = charge(ledger, attempt=3)
        assert open_one.entry.charge == 2
        assert charge(ledger, attempt=4).entry.charge == 3  # taken up once, not twice
        open_one.begin()
    with Ledger.open(tmp_path / "l") as ledger:
        ledger.settle(plan_id=PLAN, round_number=1)
        assert charge(ledger, attempt=5).entry.charge == 3


def test_a_failed_run_counts_and_one_that_never_began_does_not(tmp_path: Path) -> None:
    with opened(tmp_path / "l") as ledger:
        failed, unused = charge(ledger, 1), charge(ledger, 2)
        failed.begin()
        for one in (failed, unused, failed, unused):
            one.end()
        assert (failed.entry.state, unused.entry.state) == (State.RELEASED, State.VOID)


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
        assert {row.entry.plan for row in ledger.rows()} == {PLAN}
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


@pytest.mark.slow
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
    root = here.parents[1]
    folders = [str(here), str(here.parent / "support"), str(root), str(root / "platform")]
    command = [sys.executable, "-c", script, str(path), *folders]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    assert acknowledged == ["1", "2", "3", "4"]
    with Ledger.open(path) as ledger:
        states = [r.entry.state for r in ledger.rows()]
        assert states.count(State.RUNNING) >= 4


KILLS = ("before", "half-way", "after")


@pytest.mark.parametrize(
    ("kills", "apart"), [(("half-way",), 3), pytest.param(KILLS, 1, marks=pytest.mark.slow)]
)
def test_killed_at_every_step_of_every_row_the_ledger_opens_and_counts_what_was_acknowledged(
    tmp_path: Path, kills: tuple[str, ...], apart: int
) -> None:
    """A child process registers, charges, begins and ends, and kills itself at the n-th system call that
    touches the disk; whatever it had acknowledged is there, and the round can be charged."""
    ends = 0
    for place in itertools.count(step=apart):
        for kill in kills:
            path, said = tmp_path / f"{place}-{kill}", tmp_path / f"{place}-{kill}-said"
            status = _run_and_kill(path, said, place, kill)
            if not os.WIFSIGNALED(status):
                ends += 1
                assert os.WEXITSTATUS(status) == 0
            acknowledged = said.read_text().split()
            with Ledger.open(path) as ledger:
                ledger.verify()
                states = [r.entry.state.value for r in ledger.rows() if r.entry.split is Split.TRAIN]
                assert states[: len(acknowledged)] == acknowledged
                assert len(states) <= len(acknowledged) + 1
                ledger.register(study(), plan_id=PLAN, dataset="films", cap=8.0)
                before = ledger.spent("films")
                again = charge(ledger)
                assert (ledger.spent("films") > before) == ("released" in states or "reserved" not in states)
                again.begin()
                again.end()
                ledger.verify()
        if ends:
            break
    assert place > 15
    assert ends == len(kills)


def _run_and_kill(path: Path, said: Path, place: int, kill: str) -> int:
    """Fork; the child dies by SIGKILL around its ``place``-th write or sync (its exit status)."""
    said.touch()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        calls = itertools.count()
        real_write, real_sync = os.write, os.fsync

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def write(descriptor: int, data: bytes) -> int:
            due = next(calls) == place
            if due and kill != "after":
                real_write(descriptor, data[: len(data) // 2 * (kill == "half-way")])
                die()
            done = real_write(descriptor, data)
            if due:
                die()
            return done

        def sync(descriptor: int) -> None:
            due = next(calls) == place
            if due and kill != "after":
                die()
            real_sync(descriptor)
            if due:
                die()

        with open(said, "a", buffering=1) as out:
            os.write, os.fsync = write, sync  # type: ignore[assignment]
            ledger = opened(path)
            out.write("registered\n")
            one = charge(ledger)
            out.write("reserved\n")
            one.begin()
            out.write("running\n")
            one.end()
            out.write("released\n")
        os._exit(0)
    finally:
        os._exit(1)


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
        written = [r for r in again.rows() if r.entry.state is State.RESERVED]
        assert len(written) == (0 if broken == "write" else 1)  # unsynced counts: never too little


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
    edited = "".join([lines[0], json.dumps(value) + "\n", *lines[2:]]).encode()
    for content, row in [
        (edited, 2),
        ("".join(lines[1:]).encode(), 1),
        (b"not json\n", 1),
        (b"\xff\n", 1),
        (b"[" * 100_000 + b"\n", 1),
        (lines[0].encode() + bytes(40) + b"\n", 2),
    ]:
        path.write_bytes(content)
        with pytest.raises(LedgerDamaged) as caught:
            Ledger.open(path)
        assert caught.value.row == row
        assert "backup" in caught.value.remedy
        assert path.read_bytes() == content  # left as it is, for whoever looks into it


def test_a_tail_of_zeros_after_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with opened(path) as ledger:
        rows = ledger.rows()
    path.write_bytes(path.read_bytes() + bytes(300))
    with Ledger.open(path) as ledger:
        assert ledger.torn
        assert ledger.rows() == rows
    assert b"\0" not in path.read_bytes()


def test_a_ledger_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(LedgerUnreadable) as caught:
            Ledger.open(path)
        assert "ledger.jsonl" in caught.value.remedy


def test_verify_sees_a_file_that_was_replaced_under_a_running_node(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with opened(path) as ledger:
        older = path.read_bytes()
        charge(ledger)
        ledger.verify()
        path.write_bytes(older)
        with pytest.raises(LedgerDamaged) as caught:
            ledger.verify()
        assert caught.value.row == len(ledger.rows())


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    opened(tmp_path / "l").close()
    assert (tmp_path / "l").stat().st_mode & 0o077 == 0
