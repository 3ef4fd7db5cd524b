"""Steps that several processes share: the same update, and a lost rank costs the attempt and nothing else."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hospital_node.computation import Computation
from hospital_node.contribution import Contribution
from hospital_node.doctor import ranks_finding
from hospital_node.ranks.crews import LocalCrew, SubmittedCrew
from hospital_node.ranks.folder import KEY, Damaged, JobFolder, Signs
from hospital_node.ranks.job import Block, Job
from hospital_node.ranks.place import Place, folder_in, place_in
from hospital_node.ranks.problems import (
    JobFolderFailed,
    JobNotStarted,
    NoJob,
    RankAnswer,
    RankFailed,
    RankLost,
    RankSilent,
)
from hospital_node.ranks.settings import RanksSettings
from hospital_node.ranks.tree import branch_sum, branches, in_blocks, run_of, whole_sum
from hospital_node.settings import Node, NodeSettings
from hospital_node.training import TrainingRound, rank
from hospital_node.training.optimizer import GRID_BITS
from hospital_node.training.run import train_unchecked
from hospital_node.training.unbooked import unbooked_charge
from hospital_node.turns import Turns
from hospital_node.unsent import Unsent
from medveil.identity import Secret
from medveil.rounds import AttemptKey, RoundKind
from medveil.stopping import Stopped, stoppable
from medveil_imaging.models import build_model
from privacy.dp.ledger import State, charges
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from ranks import QUICK, NoCrew, films, in_a_thread, plan_of, site, study_of, worked_on
from rooms import ROOT
from tries import leading

CPU = torch.device("cpu")


def trained(*, double: bool = False, private: bool = True, **changes: Any) -> np.ndarray[Any, Any]:
    """One round on eleven patients of one to three films; noise and coins are those of a known key."""
    study, vector = study_of(**({} if private else {"privacy": {"kind": "none"}}))
    given: dict[str, Any] = {
        "number": 1,
        "declared_patients": 20,
        "noise": NoiseSource(bytes(32)) if private else None,
        "charge": unbooked_charge(study, round_number=1, split=Split.TRAIN) if private else None,
        "device": CPU,
        "build": (lambda s: build_model(s).double()) if double else build_model,
    }
    patients = films(11)
    return train_unchecked(TrainingRound(study, vector, patients, **(given | changes))).values


@pytest.mark.parametrize("size", [*range(1, 18), 100])
def test_the_sum_has_the_same_bits_however_many_ranks_share_the_blocks(size: int) -> None:
    values = np.random.default_rng(size).normal(size=(size, 50)).astype(np.float32)
    blocks = in_blocks(values)
    assert sorted(float(v[0]) for block in blocks for v in block) == sorted(values[:, 0].tolist())
    found = []
    for ranks in range(1, 17):
        known = {}
        for one in range(ranks):
            mine = list(branches(run_of(one, ranks, len(blocks)), len(blocks)))
            assert len(mine) <= 6
            known |= {b: branch_sum(b, lambda k: np.sum(np.stack(blocks[k]), 0)) for b in mine}
        found.append(whole_sum(known, len(blocks)).tobytes())
    assert len(set(found)) == 1
    with pytest.raises(KeyError):
        whole_sum({}, len(blocks))


def test_a_job_makes_the_same_update_as_this_process_alone(tmp_path: Path) -> None:
    """In float64 bit for bit, for noisy sums are rounded to a grid; in float32 within a step of that grid."""
    job = in_a_thread(tmp_path)
    assert np.array_equal(trained(double=True), trained(double=True, open_job=job))
    alone, shared = trained(), trained(open_job=job)
    step = 2.0 ** (-1 - GRID_BITS) / (0.7 * 20)  # learning rate 1, clipping norm 0.5
    assert np.abs(alone - shared).max() <= 3 * 2 * step  # of each of three steps, and what follows from it
    assert not list(tmp_path.iterdir())


def test_without_noise_a_job_makes_the_same_update_within_rounding(tmp_path: Path) -> None:
    alone, shared = trained(private=False), trained(private=False, open_job=in_a_thread(tmp_path))
    assert np.allclose(alone, shared, rtol=1e-3, atol=1e-5)
    assert np.abs(alone).max() > 1e-2


@pytest.mark.parametrize(
    ("spoiled", "problem"),
    [
        (lambda v: v[1:], "of shape"),
        (lambda v: v.astype(np.float64), "float64"),
        (lambda v: v * np.float32(np.nan), "larger"),
        (lambda v: v + np.float32(100), "larger"),
    ],
    ids=["shape", "precision", "not a number", "too large"],
)
def test_an_answer_that_cannot_be_the_sum_is_refused(tmp_path: Path, spoiled: Any, problem: str) -> None:
    def spoil(job: Job) -> None:
        answer = job._answer
        job._answer = lambda name: {"sum": spoiled(answer(name)["sum"])}  # type: ignore[method-assign]

    with pytest.raises(RankAnswer, match=problem):
        trained(open_job=in_a_thread(tmp_path, spoil))
    assert not list(tmp_path.iterdir())


def job_in(tmp_path: Path, **changes: Any) -> tuple[Job, JobFolder, NoCrew]:
    folder, crew = JobFolder.make(tmp_path), NoCrew()
    settings = RanksSettings(**(QUICK | {"count": 3})).model_copy(update=changes)
    return Job(folder, crew, settings), folder, crew


def ask(job: Job) -> None:
    block = Block(np.zeros((1, 2), np.float32), np.zeros(1), np.ones(1, np.int64))
    job.sum_of("loss", np.zeros(4, np.float32), [block])


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"failed-2": {"code": "not-safe", "what": "Unsafe."}}, RankFailed, "Rank 2 .* Unsafe.*not-safe"),
        ({"failed-0": {"code": "rank-lost", "what": "gone", "rank": 1}}, RankLost, "Rank 1 .*gone"),
        (
            {
                "failed-0": {"code": "rank-lost", "what": "gone", "rank": 2},
                "failed-2": {"code": "OutOfMemoryError", "what": "an error of a library."},
            },
            RankFailed,
            "Rank 2 .*OutOfMemoryError",
        ),
        ({"failed-0": {"code": "rank-silent", "rank": 1, "seconds": 9.0}}, RankSilent, "Rank 1 .*9 seconds"),
        ({"failed-0": {"code": "rank-answer", "what": "odd", "rank": 1}}, RankAnswer, "Rank 1 .*odd"),
    ],
    ids=[
        "its own",
        "another's end",
        "the cause before what follows",
        "another's silence",
        "another's answer",
    ],
)
def test_a_job_names_the_rank_and_why(tmp_path: Path, said: Any, error: Any, words: str) -> None:
    job, folder, crew = job_in(tmp_path)
    for name, content in said.items():
        folder.write(name, content)
    with pytest.raises(error, match=words):
        ask(job)
    crew.told = (1, -9)
    with pytest.raises(RankLost, match=r"Rank 1 .*signal 9"):  # whom a signal has ended is the cause
        ask(job)


def test_a_rank_that_shows_no_life_and_a_step_without_end_are_named(tmp_path: Path) -> None:
    job, folder, _ = job_in(tmp_path)
    now = [0.0]
    signs = Signs(folder, 60.0, lambda: now[0])
    for now[0], number in ((0.0, 1), (50.0, 2), (100.0, 2)):
        folder.beat("1", number)
        assert not signs.silent("1")
        assert signs.silent("2") is (now[0] > 60)
    now[0] = 111.0
    assert signs.silent("1")
    job._signs = signs
    with pytest.raises(RankSilent, match=r"Rank 1 .*300 seconds"):
        ask(job)
    slow, _, _ = job_in(tmp_path, step_s=0.02)
    with pytest.raises(RankSilent, match=r"0\.02 seconds"):
        ask(slow)
    late, _, _ = job_in(tmp_path, start_s=0.02)
    with pytest.raises(JobNotStarted, match="rank 0 of 3"):
        late.await_ready()


def test_whoever_waits_for_ranks_can_be_stopped(tmp_path: Path) -> None:
    job, _, _ = job_in(tmp_path)
    stop = threading.Event()
    stop.set()
    with stoppable(stop), pytest.raises(Stopped):
        ask(job)


def test_what_is_in_the_folder_is_sealed_each_file_under_its_name(tmp_path: Path) -> None:
    folder = JobFolder.make(tmp_path)
    picture = np.arange(1000, dtype=np.float32)
    folder.write_arrays("block-1-0", {"images": picture})
    folder.write("go-1", {"kind": "clipped"})
    everything = b"".join(one.read_bytes() for one in folder.path.iterdir())
    assert picture.tobytes()[:64] not in everything
    assert b"clipped" not in everything
    assert bytes.fromhex(folder.environment[KEY]) not in everything
    assert all(one.stat().st_mode & 0o077 == 0 for one in (folder.path, *folder.path.iterdir()))
    there = folder_in(folder.path, dict(folder.environment))
    assert np.array_equal((there.read_arrays("block-1-0") or {})["images"], picture)
    os.replace(folder.path / "block-1-0", folder.path / "block-2-0")
    with pytest.raises(Damaged):
        there.read_arrays("block-2-0")
    os.replace(folder.path / "go-1", folder.path / "go-2")
    job, _, _ = job_in(tmp_path)
    job._folder = there
    (folder.path / "failed-1").write_bytes(b"not ours")
    with pytest.raises(RankAnswer, match="has not sealed"):
        ask(job)


def test_a_folder_that_goes_away_and_one_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    job, folder, _ = job_in(tmp_path)
    folder.remove()
    (tmp_path / folder.path.name).write_text("a file in its place")
    with pytest.raises(JobFolderFailed):
        ask(job)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, Place(1, 4, 0)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Place(5, 8, 1)),
        ({"JOB_COMPLETION_INDEX": "2", "MEDVEIL_RANKS": "3"}, Place(2, 3, 0)),
        ({}, "nothing says"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "rank 4 of 4"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "no number"),
    ],
)
def test_a_rank_knows_its_place_by_torchrun_slurm_or_kubernetes(environment: Any, place: Any) -> None:
    if isinstance(place, Place):
        assert place_in(environment) == place
    else:
        with pytest.raises(NoJob, match=place):
            place_in(environment)


def test_without_key_or_folder_nobody_works_on_a_job(tmp_path: Path) -> None:
    with pytest.raises(NoJob, match="no key"):
        folder_in(tmp_path, {KEY: "12"})
    given = {KEY: "00" * 32}
    with pytest.raises(NoJob, match="gone"):
        folder_in(tmp_path / "none", given)
    assert KEY not in given


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "submit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_command_of_a_cluster_gets_the_key_and_the_folder_and_is_asked_to_end(tmp_path: Path) -> None:
    text = f'echo "$MEDVEIL_RANKS $MEDVEIL_JOB_KEY $@" > {tmp_path}/told; echo "job;7 was submitted"'
    folder = JobFolder.make(tmp_path / "jobs")
    ending = (script(tmp_path, text), "end")
    crew = SubmittedCrew(folder, RanksSettings(count=2, submit=(script(tmp_path, text),), cancel=ending))
    told = (tmp_path / "told").read_text().split()
    assert told == ["2", folder.environment[KEY], str(folder.path)]
    crew.close(at_once=False)
    assert (tmp_path / "told").read_text().split() == told
    crew.close(at_once=True)
    assert (tmp_path / "told").read_text().split()[-2:] == ["end", "job;7"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo no partition of this name >&2; exit 3", "ended with 3: no partition"),
        ("true", "printed no name"),
        (None, "No such file"),
    ],
)
def test_a_job_that_is_not_taken_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    command = str(tmp_path / "none") if text is None else script(tmp_path, text)
    with pytest.raises(JobNotStarted, match=words):
        SubmittedCrew(JobFolder.make(tmp_path / "jobs"), RanksSettings(count=2, submit=(command,)))


def test_ranks_of_this_machine_end_with_the_node_and_get_no_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    folder = JobFolder.make(tmp_path)
    text = 'echo "$RANK $WORLD_SIZE $HTTPS_PROXY" > "$0.$RANK"; read nothing; echo ended >> "$0.$RANK"'
    command = script(tmp_path, text)
    crew = LocalCrew(folder, 2, [command])
    crew.close(at_once=False)
    assert [(tmp_path / f"submit.{r}").read_text().split() for r in range(2)] == [
        ["0", "2", "ended"],
        ["1", "2", "ended"],
    ]
    assert crew.ended() == (0, 0)
    killed = LocalCrew(folder, 2, [command])
    killed._processes[1].kill()
    killed._processes[1].wait()
    assert killed.ended() == (1, -9)
    killed.close(at_once=True)


class _Sent:
    """Stands in for gloo: what another rank has sent."""

    def __init__(self, *messages: torch.Tensor) -> None:
        self._messages = list(messages)

    def recv(self, into: torch.Tensor, src: int) -> None:
        into.copy_(self._messages.pop(0))


@pytest.mark.parametrize(
    ("header", "value", "problem"),
    [
        ([1, 2, 5, 4], 0.0, "in place of"),
        ([1, 1, 7, 4], 0.0, "in place of"),
        ([1, 1, 5, 8], 0.0, "in place of"),
        ([2, 1, 5, 4], 0.0, "in place of"),
        ([1, 1, 5, 4], float("nan"), "not finite"),
        ([1, 1, 5, 4], 1.0, None),
    ],
    ids=["sums", "shape", "precision", "another step", "not a number", "right"],
)
def test_rank_0_takes_from_the_others_what_it_expects_only(
    monkeypatch: pytest.MonkeyPatch, header: Any, value: float, problem: str | None
) -> None:
    monkeypatch.setattr(rank, "dist", _Sent(torch.tensor(header), torch.full((5,), value)))
    like = np.zeros(5, np.float32)
    if problem is None:
        found = rank.receive(like, 1, 2, 16, 9.0)
        assert {branch: sums.tolist() for branch, sums in found.items()} == {(8, 16): [1.0] * 5}
    else:
        with pytest.raises(RankAnswer, match=problem) as caught:
            rank.receive(like, 1, 2, 16, 9.0)
        assert caught.value.rank == 1


@pytest.mark.parametrize("broken", leading(["in the middle", "before the first step"], 1))
def test_a_rank_that_is_lost_costs_the_attempt_and_nothing_else(tmp_path: Path, broken: str) -> None:
    """The next attempt computes the round anew, under the same charge."""
    study, vector = study_of()
    plan = plan_of(study)
    working, tries = in_a_thread(tmp_path / "jobs"), []

    def open_job(order: Any) -> Any:
        tries.append(order)
        if len(tries) > 1:
            return working(order)
        if broken == "before the first step":
            raise JobNotStarted(problem="the queue is full")

        def spoil(job: Job) -> None:
            whole, asked = job.sum_of, []

            def lost(*given: Any) -> Any:
                asked.append(given)
                if len(asked) == 2:
                    raise RankLost(rank=1, how="signal 9")
                return whole(*given)

            job.sum_of = lost  # type: ignore[method-assign]

        return in_a_thread(tmp_path / "jobs", spoil)(order)

    with worked_on(tmp_path, plan) as records:
        unsent = Unsent(tmp_path / "unsent.sealed", Secret(bytes(32)))
        turns = Turns(2**40, open_job)

        async def attempt(number: int) -> Contribution:
            return await computation.prepare(
                AttemptKey(plan.id, 1, number), RoundKind.TRAIN, bytes(32), vector
            )

        def states() -> list[State]:
            rows = charges(records.ledger.rows(), plan=plan.id)
            return [e.state for e in rows if e.split is Split.TRAIN]

        with closing(Computation(plan, site, records, unsent=unsent, turns=turns)) as computation:
            with pytest.raises((RankLost, JobNotStarted)):
                asyncio.run(attempt(1))
            assert unsent.find("") is None
            assert states() == [State.RUNNING] * (broken == "in the middle")  # what never began is given back
            found = asyncio.run(attempt(2))
            assert states() == [State.RELEASED]
            assert np.abs(found.update.values).max() > 0
            again = asyncio.run(attempt(3))
            assert np.array_equal(found.update.values, again.update.values)
    assert len(tries) == 2


def test_kubernetes_gets_as_many_ranks_as_were_asked_for_and_the_key_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubectl is a stand-in that keeps what it was given."""
    kubectl = f"n=$(ls {tmp_path}/given* 2>/dev/null | wc -l); cat > {tmp_path}/given$n\n"
    kubectl += f'echo "$@" >> {tmp_path}/words; echo uid-7'
    (tmp_path / "bin").mkdir()
    Path(script(tmp_path, kubectl)).rename(tmp_path / "bin" / "kubectl")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder = JobFolder.make(tmp_path / "jobs")
    submit = ROOT / "deploy" / "kubernetes" / "submit-train-job"
    crew = SubmittedCrew(folder, RanksSettings(count=4, submit=(str(submit),)))
    job, secret = (yaml.safe_load((tmp_path / name).read_text()) for name in ("given0", "given1"))
    assert crew.name == job["metadata"]["name"] == secret["metadata"]["name"] == f"medveil-{folder.path.name}"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["train-job", str(folder.path)]
    environment = {one["name"]: one for one in container["env"]}
    assert environment["MEDVEIL_RANKS"]["value"] == "4"
    assert environment[KEY]["valueFrom"]["secretKeyRef"] == {"name": crew.name, "key": "key"}
    key = folder.environment[KEY]
    assert secret["stringData"] == {"key": key}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-7"
    assert key not in (tmp_path / "words").read_text() + (tmp_path / "given0").read_text()
    assert yaml.safe_load((submit.parent / "train-network.yaml").read_text())["kind"] == "NetworkPolicy"


def test_a_rank_that_is_late_does_not_make_the_folder_of_a_job_that_is_over_again(tmp_path: Path) -> None:
    folder = JobFolder.make(tmp_path)
    late = JobFolder(folder.path, Secret(bytes(32)))
    folder.beat("0", 1)
    folder.remove()
    late.beat("1", 2)
    with pytest.raises(FileNotFoundError):
        late.write("failed-1", {})
    with pytest.raises(FileNotFoundError):
        late.write_arrays("sum-1", {})
    assert not list(tmp_path.iterdir())


def test_the_doctor_looks_at_command_folder_and_card_of_a_job(tmp_path: Path) -> None:
    def found(**ranks: Any) -> tuple[bool, str]:
        settings = NodeSettings(
            name="a", aggregator="https://here", data=tmp_path, dataset="d", ranks=RanksSettings(**ranks)
        )
        finding = ranks_finding(Node(tmp_path, settings))
        return finding.passed, finding.found

    assert found(count=2) == (True, "2 share each step of training, started on this machine")
    submit = (script(tmp_path, "true"),)
    assert found(count=2, submit=submit, folder=tmp_path)[0]
    assert found(count=2, submit=("no-such-sbatch",)) == (
        False,
        "by 'no-such-sbatch': there is no such command",
    )
    assert not found(count=2, folder=tmp_path / "none")[0]
    assert "network card 'ib77'" in found(count=2, interface="ib77")[1]
