"""From an attempt whose sum can be opened to its result: sum, next model, and the version that is published.

The jobs are made of the stored events alone, so whatever is lost on the way is simply made again. A sum that
can be opened is tried again until it is: nobody can tell that it was not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import ParamSpec, TypeVar

from aggregator.rounds import endings
from aggregator.rounds.attempt import Attempt, Publication
from aggregator.rounds.relayed import uploads_of
from aggregator.rounds.runs import Run, Runs
from aggregator.storage.blobs import StorageFailed
from aggregator.work.cluster import Cluster
from aggregator.work.unmasking import Summing, segment_lengths, sum_segment
from aggregator.work.versions import Making, NextVersion, Step, make, stand_by, sum_and_make, utc
from aggregator.work.workers import Failure
from aggregator.work.workers import attempt as attempt_job
from medveil.errors import Error, RemoteProtocolError
from medveil.log import get_logger
from medveil.metrics import headline, noise_in_sum, summarise
from medveil.parts import by_name, in_round
from medveil.reports import AttemptReport, Damaged, Waiting
from medveil.rounds import ModelVersion, Phase, RoundKind
from medveil.strategies import Diverged
from privacy.encoding import SpoiledSum
from privacy.secagg import server
from privacy.secagg.messages import Published

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()
OPENED_IN_VAIN = (SpoiledSum.code, Diverged.code)
"""The sum is known and makes no model: trying again changes nothing."""
RETRY_S = 60.0
"""Pause before a sum that can be opened, and was not, is tried again."""
TOGETHER = 1
"""Sums of so many segments and their models are one job, for one worker."""
MAX_LOST = 3
"""Times a sum is handed to the workers when they end without a result, or do not end."""
WORK_LIMIT_S = 1800.0
"""For one try at a sum: twenty times what 25 million parameters of 50 hospitals take on two cores."""


class UnmaskingLost(RemoteProtocolError):
    """The processes that unmask a sum ended again and again without a result."""

    code = "unmasking-lost"

    def __init__(self) -> None:
        super().__init__(
            what="The worker processes that were to unmask a sum ended without a result, several times.",
            meaning="The sum can be opened, so it is tried again every minute; its plan waits for it.",
            remedy="Check the aggregator's memory (was a process killed for it?) and its log.",
        )


class UnmaskingStuck(RemoteProtocolError):
    """A process that unmasks a sum did not come to an end."""

    code = "unmasking-stuck"

    def __init__(self) -> None:
        super().__init__(
            what="The worker processes did not unmask a sum in time, several times.",
            meaning="They are replaced each time and it is tried again every minute; its plan waits for it.",
            remedy="Does the disk with the aggregator's folder answer? Has the machine enough memory?",
        )


class _JobFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


class Publishing:
    """Hands jobs to the workers and takes their results, on the coordinator's thread.

    Args:
        job_ended: called, on any thread, when a job has ended.
        cluster: adds up sums of several segments, if there is one; the workers do all the rest.
    """

    def __init__(
        self, runs: Runs, workers: Executor, job_ended: Callable[[], object], cluster: Cluster | None = None
    ) -> None:
        self._runs, self._workers, self._job_ended, self._cluster = runs, workers, job_ended, cluster

    def stand_by(self) -> None:
        """A first sum should find a worker."""
        self._submit(stand_by)

    def go_on(self, run: Run, attempt: Attempt) -> None:
        """Hand the sum to the workers, then the next model, then store the result: one step a call."""
        if attempt.publication is None and self._runs.now() < attempt.retry_at:
            return
        try:
            made = self._made(run, attempt)
        except StorageFailed:
            attempt.publication = None  # as with every message, it is tried again
            raise
        except _JobFailed as failed:
            if failed.failure.code in OPENED_IN_VAIN:
                endings.fail(self._runs, run, attempt, failed.failure.code)
            else:
                self._try_later(run, attempt, failed.failure)
        except server.WrongShares as error:
            endings.give_up(self._runs, run, attempt, error.code)  # more right ones may still come
        except server.Spoiled as error:
            self._end_spoiled(run, attempt, error)
        except Error as error:
            self._try_later(run, attempt, Failure(error.code))
        except Exception as error:  # a worker was killed or hangs, or a fault in our own code
            self._lose(run, attempt, error)
        else:
            if made is not None:
                self._store_result(run, attempt, made)

    def _made(self, run: Run, attempt: Attempt) -> NextVersion | None:
        """What the sum has led to; None as long as a job is at work."""
        if attempt.publication is None:
            attempt.publication = self._begin(run, attempt)
        publication = attempt.publication
        if not all(part.done() for part in publication.parts):
            self._check_patience(publication)
            return None
        if publication.made is None:
            ended = [_expect(part.result()) for part in publication.parts]
            stored = tuple(digest for digest in ended if digest is not None)
            making = replace(self._making(run, attempt, publication.draft_id), parts=stored)
            publication.made = self._submit(make, making)
        if not publication.made.done():
            self._check_patience(publication)
            return None
        made = _expect(publication.made.result())
        attempt.phases["aggregate"] = self._runs.now() - publication.started
        return made

    def _end_spoiled(self, run: Run, attempt: Attempt, error: server.Spoiled) -> None:
        told = AttemptReport(
            **self._runs.measured(run, attempt),
            outcome="failed",
            reason=error.code,
            failed_in=Phase.UNMASK,
            spoiled_by=run.names([error.index]),
        )
        self._runs.end(run, attempt, told)

    def _lose(self, run: Run, attempt: Attempt, error: Exception) -> None:
        """A job has ended without a result; after some of them the sum waits, as one that cannot be made."""
        attempt.publication, attempt.lost = None, attempt.lost + 1
        key, stuck = attempt.key, isinstance(error, TimeoutError)
        event = "unmasking.stuck" if stuck else "unmasking.lost"
        log.error(event, plan=key.plan, round=key.round, reason=type(error).__name__)
        if attempt.lost >= MAX_LOST:
            attempt.lost = 0
            self._try_later(run, attempt, Failure(UnmaskingStuck.code if stuck else UnmaskingLost.code))

    def _try_later(self, run: Run, attempt: Attempt, failure: Failure) -> None:
        """The sum can be opened and was not: whatever is broken may be mended."""
        attempt.publication, attempt.retry_at = None, self._runs.now() + RETRY_S
        attempt.trouble = Waiting(reason=failure.code, failed_in=Phase.UNMASK)
        if failure.source is not None:
            named = failure.source if isinstance(failure.source, str) else run.names([failure.source])[0]
            damaged = Damaged(hospital=named, segment=failure.segment)
            attempt.trouble = Waiting(reason=failure.code, failed_in=Phase.UNMASK, damaged=damaged)
        key = attempt.key
        log.error("sum.waits", plan=key.plan, round=key.round, attempt=key.attempt, code=failure.code)

    def _check_patience(self, publication: Publication) -> None:
        """Replace all workers if one hangs for too long; jobs of other plans are made again, uncounted.

        Raises: TimeoutError then.
        """
        if self._runs.now() - publication.started <= WORK_LIMIT_S:
            return
        self._workers.shutdown(wait=False)
        if self._cluster is not None:
            self._cluster.give_up()
        for run in self._runs.all():
            if run.attempt is not None:
                run.attempt.publication = None
        raise TimeoutError()

    def _begin(self, run: Run, attempt: Attempt) -> Publication:
        state, words, started = attempt.state, attempt.params.words, self._runs.now()
        attempt.wrong_shares = run.names(server.wrong_returns(state))
        # The last phase has closed with a threshold of answers; that number is enough to unmask.
        removal = server.masks_to_remove(replace(state, phase=Phase.UNMASK))
        uploads = uploads_of(state, attempt.relayed)
        folder, draft_id = attempt.key.folder, secrets.token_hex(8)
        self._runs.blobs.forget_drafts(folder)
        job = Summing(self._runs.blobs, folder, draft_id, words, uploads, tuple(removal))
        segments = len(segment_lengths(words))
        if segments <= TOGETHER:
            together = self._submit(sum_and_make, job, self._making(run, attempt, draft_id))
            return Publication(started, draft_id, [], together)
        if self._cluster is None:
            parts = [self._submit(sum_segment, job, number) for number in range(segments)]
            return Publication(started, draft_id, parts)
        stored = [self._cluster.submit(job, number) for number in range(segments)]
        for part in stored:
            part.add_done_callback(lambda _: self._job_ended())
        return Publication(started, draft_id, stored)

    def _making(self, run: Run, attempt: Attempt, draft_id: str) -> Making:
        state, step = attempt.state, None
        if attempt.kind is RoundKind.TRAIN:
            parent, optimiser = run.newest
            proof = Published(
                round=attempt.key.round,
                attempt=attempt.key.attempt,
                transcript=state.transcript,
                members=state.committed,
                survivors=state.survivors,
                signatures={i: message.signature for i, message in state.agreed.items()},
                sum_hash=bytes(32),
            )
            step = Step(parent.model, optimiser, parent.number + 1, proof)
        folder, hospitals = attempt.key.folder, len(state.survivors)
        study = in_round(run.plan.study, attempt.kind)
        return Making(self._runs.blobs, folder, draft_id, study, attempt.params, hospitals, step)

    def _submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T | Failure]:
        future = self._workers.submit(attempt_job, job, *args, **kwargs)
        future.add_done_callback(lambda _: self._job_ended())
        return future

    def _store_result(self, run: Run, attempt: Attempt, made: NextVersion) -> None:
        study, version = in_round(run.plan.study, attempt.kind), None
        if made.model is not None:
            parent, _ = run.newest
            version = ModelVersion(
                plan=run.plan.id,
                number=parent.number + 1,
                model=made.model,
                parent=parent.model,
                round=attempt.key.round,
                survivors=run.names(attempt.state.survivors),
                epsilon=made.epsilon,
                created=utc(self._runs.wall_clock()),
            )
        rounds = 1 if attempt.kind is RoundKind.EVALUATE else study.training.rounds
        noise = noise_in_sum(study, hospitals=len(attempt.state.survivors), rounds=rounds)
        sums = by_name(made.metrics, run.plan.names)
        figures = summarise(study, sums, noise=noise) if sums else {}
        report = AttemptReport(
            **self._runs.measured(run, attempt),
            outcome="done",
            figures=figures,
            metric=figures.get(headline(study)),
            sums={k: tuple(v.tolist()) for k, v in sums.items()},
            model=made.model,
            update_norm=made.norm,
            epsilon=made.epsilon,
            sum=made.sum,
            proof=made.proof,
        )
        self._runs.end(run, attempt, report, version, made.state, proved=made.proved)


def _expect(result: T | Failure) -> T:
    if not isinstance(result, Failure):
        return result
    if result.code == StorageFailed.code:
        raise StorageFailed()
    raise _JobFailed(result)
