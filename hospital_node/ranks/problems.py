"""What can be wrong with a training job. None of it lets anything leave the hospital."""

from __future__ import annotations

from hospital_node.contribution import Passing
from medveil.errors import Error
from medveil.shown import plain

MEANING = (
    "The node misses this attempt and computes the round anew for the next one, under the same charge. "
    "Nothing was sent."
)


class JobNotStarted(Error, Passing):
    """The command that starts a training job has failed, or its ranks have not come."""

    code = "job-not-started"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The training job was not started: {problem}.",
            meaning="Nothing was charged, computed or sent.",
            remedy="Run the command of 'submit' in node.json by hand as the node's user, or look at the "
            "cluster's queue; 'start_s' in node.json says how long is waited.",
        )


class JobFolderFailed(Error, Passing):
    """The folder by which node and ranks talk cannot be used."""

    code = "job-folder"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The folder of the training job cannot be used: {plain(problem, 100)}.",
            meaning=MEANING,
            remedy="Look whether it is mounted here and on the job's machines, is the node's user's own and "
            "has room; 'folder' of 'ranks' in node.json names it.",
        )


class RankLost(Error, Passing):
    """One of the processes that share a step has ended in the middle."""

    code = "rank-lost"

    def __init__(self, *, rank: int, how: str) -> None:
        super().__init__(
            what=f"Rank {rank} of the training job has vanished ({plain(how, 60)}).",
            meaning=MEANING,
            remedy="Look whether its machine is up and has memory left; the system's log says who ended it.",
        )
        self.rank, self.how = rank, how


class RankSilent(Error, Passing):
    """A rank hangs, or the way to it does."""

    code = "rank-silent"

    def __init__(self, *, rank: int, seconds: float) -> None:
        super().__init__(
            what=f"Rank {rank} of the training job has not answered for {seconds:g} seconds.",
            meaning=MEANING,
            remedy="Look at its machine and at the folder that the node shares with it. If its steps really "
            "take longer, raise 'step_s' of 'ranks' in node.json.",
        )
        self.rank, self.seconds = rank, seconds


class RankAnswer(Error, Passing):
    """A rank has answered with something that cannot be its part of the sum."""

    code = "rank-answer"

    def __init__(self, *, rank: int, problem: str) -> None:
        super().__init__(
            what=f"Rank {rank} of the training job has answered wrongly: {plain(problem, 200)}.",
            meaning=MEANING,
            remedy="All ranks must run the same version of MedVeil and torch on sound hardware; look at that "
            "rank's machine.",
        )
        self.rank, self.problem = rank, problem


class RankFailed(Error, Passing):
    """A rank has ended with an error of its own."""

    code = "rank-failed"

    def __init__(self, *, rank: int, problem: str) -> None:
        super().__init__(
            what=f"Rank {rank} of the training job has given up: {plain(problem, 300)}",
            meaning=MEANING,
            remedy="Put right what it says. OutOfMemoryError wants a card with more memory.",
        )
        self.rank, self.problem = rank, problem


class NoJob(Error):
    """``train-job`` was called by hand, or without what a job's command hands on."""

    code = "no-job"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"There is no training job to work on: {plain(problem, 200)}.",
            meaning="Nothing was computed.",
            remedy="The node starts this command, or the job that 'submit' of node.json hands to a cluster; "
            "see 'Several cards or machines' in docs/operator.md.",
        )
