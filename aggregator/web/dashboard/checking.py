"""Two things that can be asked for beside the audit page: a check of the whole log, and the log as a file.

The check runs in a process of its own, one at a time, and its result is remembered as long as this process
runs. Neither changes anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from aggregator.settings import Settings
from aggregator.telling.audit_export import lines_after
from aggregator.watching.audit import Checked, check_log
from aggregator.web.dashboard.door import Viewer, viewer
from aggregator.web.dashboard.screens.audit import WHO
from aggregator.web.entrance.guard import form_of, guarded, language_in
from aggregator.work.workers import Failure, Workers
from aggregator.work.workers import attempt as attempt_job
from medveil.log import get_logger

CHECK = "/audit/check"
log = get_logger()


class Checking:
    """The last check of the audit log, and the one that goes on. Any thread may ask.

    Args:
        make: makes the process that checks; it ends with the check.
    """

    def __init__(self, settings: Settings, make: Callable[[], Any] = lambda: Workers(1)) -> None:
        self._settings, self._make = settings, make
        self._one_at_a_time = threading.Lock()
        self._last: Checked | None = None
        self._workers: Any = None

    def last(self) -> Checked | None:
        """What the last check has found, or that one goes on; None if none was asked for."""
        return self._last

    def begin(self) -> bool:
        """Check the log, unless that is being done already; whether it was begun."""
        with self._one_at_a_time:
            if self._workers is not None:
                return False
            began = time.time()
            self._last, self._workers = Checked(outcome="running", began=began), self._make()
            future = self._workers.submit(attempt_job, check_log, self._settings)
        future.add_done_callback(lambda done: self._end(done, began))
        return True

    def _end(self, done: Future[Checked | Failure], began: float) -> None:
        found: Checked | Failure | None = None
        if not done.cancelled() and done.exception() is None:
            found = done.result()
        if not isinstance(found, Checked):  # the process was killed
            code = found.code if isinstance(found, Failure) else "broken-off"
            found = Checked(outcome="failed", began=began, seconds=time.time() - began, code=code)
        self._last = found
        log.info("audit.checked", reason=found.outcome, seconds=found.seconds)
        threading.Thread(target=self.close, daemon=True).start()  # not on the thread that it ends

    def close(self) -> None:
        """End the process that checks."""
        with self._one_at_a_time:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown()


def checking_router(board: Any, checking: Checking) -> APIRouter:
    """Its routes, for admins and auditors who have signed in.

    Args:
        board: whose painter draws, and whose store is exported.
    """
    router = APIRouter(include_in_schema=False)

    @router.get(CHECK)
    async def ask(request: Request, who: Viewer = Depends(viewer)) -> Response:
        who.check(*WHO)
        html = board.painter.standing("check.html.j2", language_in(request), viewer=who)
        return guarded(HTMLResponse(html))

    @router.post(CHECK)
    async def begin(request: Request, who: Viewer = Depends(viewer)) -> Response:
        who.check(*WHO)
        form = await form_of(request)
        who.check_seal(CHECK, form.get("seal", ""))
        await board.run(checking.begin)
        return guarded(RedirectResponse("/audit", 303))

    @router.get("/audit/export.jsonl")
    async def export(who: Viewer = Depends(viewer)) -> Response:
        who.check(*WHO)
        store = board.serving().store
        lines = await board.run(lambda: _ready(lines_after(store, 0, "jsonl", board.settings.title)))
        name = "attachment; filename=medveil-audit.jsonl"
        answer = StreamingResponse(lines, media_type="application/jsonl")
        answer.headers["content-disposition"] = name
        return guarded(answer)

    return router


def _ready(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with its first line made: what is refused is refused before the answer begins."""
    first = next(lines)

    def all_of_them() -> Iterator[bytes]:
        yield first + b"\n"
        for line in lines:
            yield line + b"\n"

    return all_of_them()
