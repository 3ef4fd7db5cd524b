"""The researcher's connection to an aggregator: read a study's progress and its models."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx2 as httpx
from pydantic import TypeAdapter, ValidationError

from medveil.answers import (
    ASK_PLAINLY,
    PROBLEM_BYTES,
    AnswerTooLarge,
    Collected,
    EncodedAnswer,
    no_cookies,
    problem_in,
)
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, sign_request
from medveil.messages import Enrol, enrolment_path, seconds_to_wait
from medveil.outside import NotPlain, decode_json
from medveil.reachability import check_certificate, why
from medveil.reports import PlanLine, PlanStatus
from medveil.shown import plain

T = TypeVar("T")
PATIENCE_S = 30.0
"""How long a request goes on asking an aggregator that says it has no time."""
BUSY = (429, 502, 503, 504)
STATUS_BYTES, STATUS_ITEMS = 64 * 2**20, 5_000_000
"""Of a study's whole history: ten thousand rounds of fifty hospitals."""
MODEL_BYTES = 512 * 2**20
"""Most bytes of a model whose tensors the caller does not know."""
NO_STATUS = "what it sent is no status"
PLAN_LINES, PLAN_STATUS = TypeAdapter(tuple[PlanLine, ...]), TypeAdapter(PlanStatus)


class NoAnswer(RemoteProtocolError):
    """The aggregator did not answer, or answered with a problem."""

    code = "no-answer"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator gave no useful answer: {reason}.",
            meaning="Nothing was changed.",
            remedy="Check its address, its certificate, and that this identity is enrolled.",
        )


class Client:
    """Signed requests of one enrolled researcher.

    Args:
        address: e.g. ``https://fl.example.org:8443``. authority: the aggregator's ``ca.pem``.
    """

    def __init__(self, address: str, authority: Path, identity: Identity) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._identity = identity
        self._client = httpx.Client(
            base_url=address,
            verify=context,
            timeout=30.0,
            headers=ASK_PLAINLY,
            cookies=no_cookies(),
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def is_up(self) -> bool:
        """Whether the aggregator answers at all."""
        try:
            return self._client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def enrol(self, token: str) -> None:
        """Use a one-time token for researchers."""
        self._send("POST", enrolment_path(self._identity.public_key), Enrol(token=token).to_bytes())

    def plans(self) -> tuple[PlanLine, ...]:
        """One line per plan that this researcher may read."""
        return self._checked("/v1/status", PLAN_LINES)

    def status(self, plan: str) -> PlanStatus:
        """A plan's attempts, model versions and open phase."""
        return self._checked(f"/v1/plans/{plan}/status", PLAN_STATUS)

    def model(self, plan: str, model: str, *, limit: int = MODEL_BYTES) -> bytes:
        """A model version as safetensors.

        Args:
            limit: most bytes, e.g. :func:`medveil.tensors.largest_file` of the study's tensors.
        """
        return self._send("GET", f"/v1/plans/{plan}/models/{model}", limit=limit)

    def _checked(self, path: str, kind: TypeAdapter[T]) -> T:
        """An answer of this kind. Raises: NoAnswer, and what :meth:`_send` raises."""
        data = self._send("GET", path, limit=STATUS_BYTES)
        try:
            return kind.validate_python(decode_json(data, max_bytes=STATUS_BYTES, max_items=STATUS_ITEMS))
        except (NotPlain, ValidationError) as error:
            raise NoAnswer(reason=NO_STATUS) from error

    def _send(self, method: str, path: str, body: bytes = b"", *, limit: int = PROBLEM_BYTES) -> bytes:
        """What the aggregator answers.

        Raises: NoAnswer, AnswerTooLarge, EncodedAnswer, CertificateRefused.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            response, data = self._once(method, path, body, limit)
            pause = seconds_to_wait(response.headers.get("retry-after"))
            if response.status_code not in BUSY or time.monotonic() + pause > end:
                break
            time.sleep(pause)
        if not response.is_success:
            told = problem_in(data)
            words = plain(f"{told.get('title', '')} {told.get('code', '')}", 200)
            raise NoAnswer(reason=f"{response.status_code} {words}".strip())
        return data

    def _once(self, method: str, path: str, body: bytes, limit: int) -> tuple[httpx.Response, bytes]:
        request = self._client.build_request(method, path, content=body)
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._identity, method, target, body).headers())
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, _collected(response, limit)
            finally:
                response.close()
        except (httpx.TransportError, TimeoutError) as error:
            check_certificate(error)
            raise NoAnswer(reason=why(error)) from error


def _collected(response: httpx.Response, limit: int) -> bytes:
    """The answer's body as it came over the line; of a refusal only as much as a problem document has.

    Raises: AnswerTooLarge, EncodedAnswer, TimeoutError.
    """
    try:
        answer = Collected(response.headers, limit if response.is_success else PROBLEM_BYTES)
        for piece in response.iter_raw():
            answer.add(piece)
        return answer.data
    except (AnswerTooLarge, EncodedAnswer):
        if response.is_success:
            raise
        return b""
