"""Letters of hospitals to keepers, and the answers: in memory, passed on unread, without the sender's name.

Nothing of them is kept: a letter whose answer does not come is written again by its hospital, and answering
the same letter twice changes nothing (:mod:`privacy.oprf.keeper`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from aggregator.errors import NotFound, TooManyRequests
from aggregator.web.gauges import Seconds
from medveil.errors import Error
from medveil.keeping import Letter

MOST_OF_A_SENDER, MOST_OF_A_KEEPER = 4, 256
ANSWER_S = 25.0
LATER_S = 2.0
ENDS = ("answered", "unanswered", "refused")
"""What becomes of a letter: ``refused`` are those too many."""
ANSWER_BUCKETS = (0.01, 0.05, 0.25, 1.0, 5.0, 25.0)


class KeeperSilent(Error):
    """A keeper does not answer."""

    code = "keeper-silent"

    def __init__(self) -> None:
        super().__init__(
            what="The keeper does not answer.",
            meaning="Nobody was claimed by this request, so nothing that needs it starts. Nothing is lost.",
            remedy="Ask whoever runs the keeper whether 'medveil aggregator keeper run' runs and reaches the "
            "aggregator, then ask again.",
        )


@dataclass(frozen=True)
class _Waiting:
    keeper: str
    letter: Letter
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Letters:
    """Everybody's letters, on one event loop.

    Args:
        answer_s: how long a hospital's letter waits for its answer.
    """

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self.answer_s = answer_s
        self._unread: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._open: dict[str, _Waiting] = {}
        self._in_hand: Counter[str] = Counter()
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._stopped = False
        self._heard: dict[str, float] = {}
        self._ended: Counter[str] = Counter()
        self._seconds = Seconds(ANSWER_BUCKETS)

    async def ask(self, keeper: str, body: bytes, *, sender: str) -> bytes:
        """The keeper's answer. Raises: KeeperSilent, TooManyRequests."""
        try:
            asked = time.monotonic()
            answer = await self._ask(keeper, body, sender)
        except TooManyRequests:
            self._ended["refused"] += 1
            raise
        except KeeperSilent:
            self._ended["unanswered"] += 1
            raise
        self._ended["answered"] += 1
        self._seconds.observe(time.monotonic() - asked)
        return answer

    async def _ask(self, keeper: str, body: bytes, sender: str) -> bytes:
        with self._counted(sender):
            if sum(one.keeper == keeper for one in self._open.values()) >= MOST_OF_A_KEEPER:
                raise TooManyRequests(retry_after_s=LATER_S)
            one = _Waiting(keeper, Letter(id=secrets.token_hex(16), body=body))
            self._open[one.letter.id] = one
            self._unread[keeper].append(one)
            self._news[keeper].set()
            try:
                async with asyncio.timeout(self.answer_s):
                    return await one.answer
            except TimeoutError:
                raise KeeperSilent() from None
            finally:
                self._open.pop(one.letter.id, None)

    async def next(self, keeper: str, *, wait_s: float) -> Letter | None:
        """The oldest letter to a keeper that it has not got yet; None if there is none until then."""
        self._heard[keeper] = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self._stopped:
                    while self._unread[keeper]:
                        one = self._unread[keeper].popleft()
                        if one.letter.id in self._open:
                            return one.letter
                    self._news[keeper].clear()
                    await self._news[keeper].wait()
        return None

    def answer(self, keeper: str, letter: str, body: bytes) -> None:
        """Pass an answer on. Raises: NotFound if nobody waits for it, or it was another keeper's letter."""
        one = self._open.get(letter)
        if one is None or one.keeper != keeper:
            raise NotFound()
        del self._open[letter]
        if not one.answer.done():
            one.answer.set_result(body)

    def stop(self) -> None:
        """Let nobody wait any more, keepers for letters neither: the process is about to end."""
        self._stopped = True
        for news in self._news.values():
            news.set()
        for one in self._open.values():
            if not one.answer.done():
                one.answer.set_exception(KeeperSilent())

    def collect(self) -> Iterator[Metric]:
        """For Prometheus, on any thread; no keeper and no hospital is named."""
        ended = CounterMetricFamily(
            "medveil_keeper_letters", "Letters to keepers since the process began.", labels=["outcome"]
        )
        for outcome in ENDS:
            ended.add_metric([outcome], self._ended[outcome])
        yield ended
        text = "Until a keeper's answer."
        seconds = HistogramMetricFamily("medveil_keeper_answer_seconds", text)
        self._seconds.add_to(seconds)
        yield seconds
        text = "Letters that wait for their answer."
        yield GaugeMetricFamily("medveil_keeper_letters_waiting", text, value=len(self._open))
        heard = list(self._heard.values())
        text = "Keepers that have asked for letters since the process began."
        yield GaugeMetricFamily("medveil_keepers", text, value=len(heard))
        text = "Since the keeper among them asked that is silent for longest; they ask every 25 s."
        silent = time.monotonic() - min(heard) if heard else 0.0
        yield GaugeMetricFamily("medveil_keeper_last_asked_seconds", text, value=silent)

    @contextmanager
    def _counted(self, sender: str) -> Iterator[None]:
        if self._in_hand[sender] >= MOST_OF_A_SENDER:
            raise TooManyRequests(retry_after_s=LATER_S)
        self._in_hand[sender] += 1
        try:
            yield
        finally:
            self._in_hand[sender] -= 1
            if not self._in_hand[sender]:
                del self._in_hand[sender]
