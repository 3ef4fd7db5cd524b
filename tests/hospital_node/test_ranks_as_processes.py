"""Real ranks over gloo on this machine, started by the node, by torchrun and by a stand-in for sbatch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hospital_node.ranks import crews
from hospital_node.ranks.job import Card, Job, OpenJob, Order, opened
from hospital_node.ranks.problems import RankFailed, RankLost, RankSilent
from hospital_node.ranks.settings import RanksSettings
from hospital_node.training import TrainingRound, run
from hospital_node.training.run import train_unchecked
from hospital_node.training.unbooked import unbooked_charge
from medveil_imaging.models import build_model
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from ranks import films, study_of
from rooms import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PATIENT = {"start_s": 500.0, "step_s": 300.0}


def trained(open_job: OpenJob | None, *, double: bool = True, private: bool = True, steps: int = 3) -> Any:
    training = {"rounds": 4, "local_steps": steps, "learning_rate": 1.0}
    study, vector = study_of(**({} if private else {"privacy": {"kind": "none"}}), training=training)
    return train_unchecked(
        TrainingRound(
            study,
            vector,
            films(11),
            number=1,
            declared_patients=20,
            noise=NoiseSource(bytes(32)) if private else None,
            charge=unbooked_charge(study, round_number=1, split=Split.TRAIN) if private else None,
            device=torch.device("cpu"),
            build=(lambda s: build_model(s).double()) if double else build_model,
            open_job=open_job,
        )
    ).values


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def local(tmp_path: Path, count: int, **changes: Any) -> OpenJob:
    return partial(opened, RanksSettings(count=count, **(PATIENT | changes)), tmp_path / "jobs", Card())


def test_two_and_three_ranks_make_the_update_of_one_process_bit_for_bit(tmp_path: Path) -> None:
    alone = trained(None)
    for count in (2, 3):
        assert np.array_equal(alone, trained(local(tmp_path, count)))
    assert np.abs(alone).max() > 0
    assert not list((tmp_path / "jobs").iterdir())


def test_without_noise_two_ranks_make_the_update_of_one_rank_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_entropy", lambda: torch.Generator().manual_seed(1))  # one order of images
    one, two = (trained(local(tmp_path, n), double=False, private=False) for n in (1, 2))
    assert np.array_equal(one, two)
    assert np.allclose(one, trained(None, double=False, private=False), rtol=1e-3, atol=1e-5)


def hit(open_job: OpenJob, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> OpenJob:
    """The same jobs, whose rank 1 gets a signal when the second step is asked for."""
    started: list[crews.LocalCrew] = []
    real = crews.LocalCrew.__init__

    def seen(self: crews.LocalCrew, *given: Any) -> None:
        real(self, *given)
        started.append(self)

    monkeypatch.setattr(crews.LocalCrew, "__init__", seen)

    @contextmanager
    def spoiled(order: Order) -> Iterator[Job]:
        with open_job(order) as job:
            whole: Callable[..., Any] = job.sum_of
            asked: list[object] = []

            def sum_of(*given: Any) -> Any:
                asked.append(given)
                if len(asked) == 2:
                    os.kill(started[0]._processes[1].pid, number)
                return whole(*given)

            job.sum_of = sum_of  # type: ignore[method-assign]
            yield job

    return spoiled


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGKILL, RankLost, r"Rank 1 .*vanished"),
        (signal.SIGSTOP, RankSilent, r"Rank 1 .*not answered"),
    ],
    ids=["killed", "hanging"],
)
def test_a_rank_that_ends_or_hangs_in_the_middle_is_named_and_the_next_job_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, error: Any, words: str
) -> None:
    job = local(tmp_path, 2, silent_s=20)
    with pytest.raises(error, match=words), monkeypatch.context() as patched:
        trained(hit(job, patched, number))
    assert not list((tmp_path / "jobs").iterdir())
    assert np.array_equal(trained(None, steps=1), trained(job, steps=1))


def test_an_error_of_a_rank_arrives_without_its_words(tmp_path: Path) -> None:
    order = Order("{}", "float32")
    words = r"Rank 0 .*an error of a library\. \[ValidationError\]"
    settings = RanksSettings(count=1, **PATIENT)
    with pytest.raises(RankFailed, match=words), opened(settings, tmp_path, Card(), order):
        pass


@pytest.mark.parametrize("launcher", ["sbatch", "torchrun"])
def test_a_command_of_a_cluster_runs_the_same_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    """``sbatch`` and ``srun`` are stand-ins that run the job here; the job's script is the shipped one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    command = f"{sys.executable} -m medveil"
    stand_ins = {
        "sbatch": 'shift; SLURM_NTASKS=$MEDVEIL_RANKS sh "$@" >/dev/null 2>&1 & echo 42',
        "srun": "shift; for r in $(seq 0 $((SLURM_NTASKS - 1))); do\n"
        'SLURM_PROCID=$r SLURM_LOCALID=$r "$@" & done; wait',
        "medveil": f'exec {command} "$@"',
        "with-torchrun": f"{sys.executable} -m torch.distributed.run --standalone "
        '--nproc-per-node "$MEDVEIL_RANKS" -m medveil node train-job "$1" >/dev/null 2>&1 & echo 42',
    }
    for name, text in stand_ins.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'platform'}:{ROOT}")
    slurm = ("sbatch", "--parsable", str(ROOT / "deploy" / "slurm" / "train-job.sbatch"))
    submit = slurm if launcher == "sbatch" else ("with-torchrun",)
    job = local(tmp_path, 2, submit=submit, folder=str(tmp_path / "shared"))
    assert np.array_equal(trained(None), trained(job))
    assert not list((tmp_path / "shared").iterdir())
