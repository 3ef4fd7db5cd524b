"""What an aggregator's answer may be. All of it is data from somebody who may lie, its length and speed too.

The clients read an answer piece by piece into a :class:`Collected`, which ends it when it is too long,
encoded or too slow. What kind of content it is, is decided by the question and never by the answer's headers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

from medveil.errors import RemoteProtocolError
from medveil.identity import Body
from medveil.outside import NotPlain, decode_json

TOLD = ("code", "title", "detail", "remedy")
PROBLEM_BYTES = 16_384
"""Most bytes of a problem document, and of an acknowledgement."""
PATIENCE_S = 60.0
BYTES_PER_S = 8_192
"""Least average speed of an answer beyond ``PATIENCE_S``; an aggregator asks twice that of its readers."""
ASK_PLAINLY = {"Accept-Encoding": "identity"}
"""Headers of every request: nothing small becomes large here."""


class AnswerTooLarge(RemoteProtocolError):
    """An answer longer than the question allows, or one without end."""

    code = "answer-too-large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            what=f"The aggregator's answer is longer than the {limit} bytes that it may have.",
            meaning="It was not read to its end, so that nobody can fill this machine's memory.",
            remedy="Check that both sides run the same version. If they do, tell the consortium's admin.",
        )


class EncodedAnswer(RemoteProtocolError):
    """A compressed answer: not accepted, so that nothing small can become large here."""

    code = "encoded-answer"

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator's answer has a content encoding, which was not asked for.",
            meaning="It was not read.",
            remedy="Check that no proxy compresses answers. If none does, tell the consortium's admin.",
        )


class Collected:
    """An answer that is being read.

    Args:
        headers: the answer's, by lower case name. limit: most bytes. clock: monotonic seconds.
        keep: where each piece goes; into memory, to be had from ``data``, without it.
    Raises: EncodedAnswer, AnswerTooLarge, by the head alone.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        keep: Callable[[bytes], object] | None = None,
    ) -> None:
        self._limit, self._clock, self._started = limit, clock, clock()
        self._pieces: list[bytes] = []
        self._keep = keep or self._pieces.append
        self.size = 0
        """Bytes so far."""
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise EncodedAnswer()
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and (len(length) > 19 or int(length) > limit):
            raise AnswerTooLarge(limit=limit)

    def add(self, piece: bytes) -> None:
        """Take the next piece. Raises: AnswerTooLarge; TimeoutError if it comes too slowly on average."""
        self.size += len(piece)
        if self.size > self._limit:
            raise AnswerTooLarge(limit=self._limit)
        if self._clock() > self._started + PATIENCE_S + self.size / BYTES_PER_S:
            raise TimeoutError("too slow")
        self._keep(piece)

    @property
    def data(self) -> bytes:
        """What has been read."""
        return b"".join(self._pieces)


def time_for(body: Body) -> float:
    """Seconds until the head of an answer must be there, when this body goes out at the least speed."""
    return 2 * PATIENCE_S + len(body) / BYTES_PER_S


def problem_in(data: bytes) -> dict[str, str]:
    """The :data:`TOLD` of a problem document; what is missing or no text is left out.

    They are texts from outside still: who shows or logs them bounds them.
    """
    try:
        found = decode_json(data, max_bytes=PROBLEM_BYTES, max_items=100)
    except NotPlain:
        return {}
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    return {k: v for k, v in fields.items() if k in TOLD and isinstance(v, str)}


def no_cookies() -> CookieJar:
    """A jar that keeps nothing: no answer can have a client carry something along."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))
