"""The researcher's connection to an aggregator: read a study's progress and its models."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx2 as httpx
from pydantic import TypeAdapter, ValidationError
from socksio import SOCKSError

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
from medveil.plan import BadPlan, Plan, parse_plan
from medveil.progress import tell
from medveil.reachability import Proxy, check_certificate, proxy_to, proxy_trouble, why
from medveil.reports import PlanLine, PlanStatus
from medveil.shown import plain

T = TypeVar("T")
PATIENCE_S = 30.0
"""How long a request goes on asking an aggregator that says it has no time."""
BUSY = (429, 502, 503, 504)
STATUS_BYTES, STATUS_ITEMS = 64 * 2**20, 5_000_000
"""Of a study's whole history: ten thousand rounds of fifty hospitals."""
PLAN_BYTES = 16 * 2**20
MODEL_BYTES = 512 * 2**20
"""Most bytes of a model whose tensors the caller does not know."""
NO_STATUS = "what it sent is no status"
PLAN_LINES, PLAN_STATUS = TypeAdapter(tuple[PlanLine, ...]), TypeAdapter(PlanStatus)


REMEDIES = {
    "token-refused": "Ask the consortium's admin for a new token: medveil aggregator enroll-token NAME "
    "--researcher. It is for one name, for three days, and for one use.",
    "unknown-sender": "This key is not enrolled there. Ask the admin for a token: medveil research enroll.",
    "revoked": "The consortium's admin has revoked this key. Ask for a token under another name.",
    "not-allowed": "This name may not read studies: was its token made for a hospital? Ask the admin for one "
    "of 'medveil aggregator enroll-token NAME --researcher' under another name.",
    "stale-request": "Set both machines' clocks by NTP.",
    "proxy": "Name the aggregator in NO_PROXY, or take the proxy out of HTTPS_PROXY and ALL_PROXY.",
    "not-found": "It is not there, or not open to this researcher: the admin opens it with "
    "'medveil aggregator people grant'.",
}
"""What to do, by the code of the aggregator's own problem."""


class NoAnswer(RemoteProtocolError):
    """The aggregator did not answer, or answered with a problem."""

    code = "no-answer"

    def __init__(self, *, reason: str, told: str = "", lost: bool = False, remedy: str = "") -> None:
        """
        Args:
            told: the code of the problem that the aggregator answered with; empty if it told none.
            lost: whether the connection failed, or it had no time: asking again later may help.
            remedy: what to do, where it does not follow from ``told``.
        """
        self.reason, self.told, self.lost = reason, told, lost
        super().__init__(
            what=f"The aggregator gave no useful answer: {reason}.",
            meaning="Nothing was changed.",
            remedy=remedy
            or REMEDIES.get(told, "Check its address, its certificate, and that this identity is enrolled."),
        )


class Client:
    """Signed requests of one enrolled researcher.

    Args:
        address: e.g. ``https://fl.example.org:8443``. authority: the aggregator's ``ca.pem``.
    Raises: BadProxy, if the environment names a proxy that cannot be used.
    """

    def __init__(self, address: str, authority: Path, identity: Identity) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._identity = identity
        self._proxy = proxy_to(address)
        self._client = httpx.Client(
            base_url=address,
            verify=context,
            proxy=_through(self._proxy),
            trust_env=False,
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

    def check_up(self) -> None:
        """Raises: NoAnswer, CertificateRefused, unless the aggregator answers under its own certificate."""
        self._send("GET", "/healthz")

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def enrol(self, token: str) -> None:
        """Use a one-time token for researchers."""
        self._send("POST", enrolment_path(self._identity.public_key), Enrol(token=token).to_bytes())

    def plans(self) -> tuple[PlanLine, ...]:
        """One line per plan that this researcher may read."""
        return self._checked("/v1/status", PLAN_LINES)

    def status(self, plan: str) -> PlanStatus:
        """A plan's attempts, model versions and open phase."""
        found = self._checked(f"/v1/plans/{plan}/status", PLAN_STATUS)
        if found.plan != plan:
            raise NoAnswer(reason=NO_STATUS)
        return found

    def model(self, plan: str, model: str, *, limit: int = MODEL_BYTES) -> bytes:
        """A model version as safetensors.

        Args:
            limit: most bytes, e.g. :func:`medveil.tensors.largest_file` of the study's tensors.
        """
        return self._send("GET", f"/v1/plans/{plan}/models/{model}", limit=limit)

    def plan(self, plan: str) -> Plan:
        """What the hospitals have approved under this hash: the study and the roster.

        Raises: BadPlan, also if it is another plan; NoAnswer.
        """
        data = self._send("GET", f"/v1/plans/{plan}", limit=PLAN_BYTES)
        try:
            found = parse_plan(decode_json(data, max_bytes=PLAN_BYTES, max_items=STATUS_ITEMS))
        except NotPlain as error:
            raise BadPlan() from error
        if found.id != plan:
            raise BadPlan(problem="it is another one than was asked for")
        return found

    def read_model(self, plan: str, model: str, file: BinaryIO, *, limit: int) -> None:
        """Append to a file what it lacks of a model; it begins anew if the aggregator sends the whole.

        Where the line breaks, the file holds what has come, and the next call goes on from there.

        Args:
            file: open for reading and appending; empty, or what earlier calls have left.
            limit: most bytes of the whole file.
        """
        have = file.seek(0, os.SEEK_END)

        def receive(response: httpx.Response) -> bytes:
            begin = _begin(response, have)
            file.seek(begin)
            file.truncate()
            size = response.headers.get("content-length", "")
            whole = begin + int(size) if size.isascii() and size.isdigit() and len(size) < 19 else 0
            answer = Collected(response.headers, limit - begin, keep=file.write)
            for piece in response.iter_raw():
                answer.add(piece)
                tell("model, kB", (begin + answer.size) // 1000, whole // 1000)
            if begin + answer.size < whole:
                raise ConnectionError("it ended early")
            return b""

        asked = {"Range": f"bytes={have}-"} if have else {}
        self._send("GET", f"/v1/plans/{plan}/models/{model}", headers=asked, receive=receive)

    def _checked(self, path: str, kind: TypeAdapter[T]) -> T:
        """An answer of this kind. Raises: NoAnswer, and what :meth:`_send` raises."""
        data = self._send("GET", path, limit=STATUS_BYTES)
        try:
            return kind.validate_python(decode_json(data, max_bytes=STATUS_BYTES, max_items=STATUS_ITEMS))
        except (NotPlain, ValidationError) as error:
            raise NoAnswer(reason=NO_STATUS) from error

    def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        limit: int = PROBLEM_BYTES,
        headers: Mapping[str, str] | None = None,
        receive: Callable[[httpx.Response], bytes] | None = None,
    ) -> bytes:
        """What the aggregator answers.

        Args:
            headers: more of them; they are not signed.
            receive: reads the body of a success; into memory, up to ``limit`` bytes, without it.
        Raises: NoAnswer, AnswerTooLarge, EncodedAnswer, CertificateRefused.
        """
        read = receive or (lambda response: _collected(response, limit))
        end = time.monotonic() + PATIENCE_S
        while True:
            response, data = self._once(method, path, body, headers or {}, read)
            pause = seconds_to_wait(response.headers.get("retry-after"))
            if response.status_code not in BUSY or time.monotonic() + pause > end:
                break
            time.sleep(pause)
        if not response.is_success:
            told = problem_in(data)
            words = plain(f"{told.get('title', '')} {told.get('code', '')}", 200)
            raise NoAnswer(
                reason=f"{response.status_code} {words}".strip(),
                told=plain(told.get("code", ""), 60),
                lost=response.status_code in BUSY,
            )
        return data

    def _once(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        read: Callable[[httpx.Response], bytes],
    ) -> tuple[httpx.Response, bytes]:
        request = self._client.build_request(method, path, content=body, headers=dict(headers))
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._identity, method, target, body).headers())
        opened = _watched(request)
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, read(response) if response.is_success else _problem(response)
            finally:
                response.close()
        except (httpx.TransportError, TimeoutError, ConnectionError, SOCKSError) as error:
            for line in opened:
                line.close()
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> NoAnswer:
        """Raises: CertificateRefused."""
        if self._proxy is None:
            check_certificate(error)
            return NoAnswer(reason=why(error), lost=True)
        shown = self._proxy.shown
        check_certificate(error, proxy=shown)
        if isinstance(error, httpx.ProxyError | SOCKSError):
            words = str(error) if isinstance(error, httpx.ProxyError) else "it does not speak SOCKS 5"
            reason, remedy = proxy_trouble(words, shown)
            return NoAnswer(reason=reason, told="proxy", lost=True, remedy=remedy)
        return NoAnswer(reason=why(error, shown), told="proxy", lost=True)


def _through(proxy: Proxy | None) -> httpx.Proxy | None:
    """The proxy itself, if it speaks TLS, is judged by this machine's authorities."""
    if proxy is None:
        return None
    own = ssl.create_default_context() if proxy.url.startswith("https:") else None
    return httpx.Proxy(proxy.url, ssl_context=own)


def _watched(request: httpx.Request) -> list[Any]:
    """The lines to a SOCKS proxy that this request opens: the library leaves one open that leads nowhere."""
    opened: list[Any] = []

    def seen(event: str, told: Any) -> None:
        if event == "socks.connect_tcp.complete":
            opened.append(told["return_value"])

    request.extensions["trace"] = seen
    return opened


def _collected(response: httpx.Response, limit: int) -> bytes:
    """The answer's body as it came over the line. Raises: AnswerTooLarge, EncodedAnswer, TimeoutError."""
    answer = Collected(response.headers, limit)
    for piece in response.iter_raw():
        answer.add(piece)
    return answer.data


def _problem(response: httpx.Response) -> bytes:
    """Of a refusal only as much as a problem document has."""
    try:
        return _collected(response, PROBLEM_BYTES)
    except (AnswerTooLarge, EncodedAnswer):
        return b""


def _begin(response: httpx.Response, have: int) -> int:
    """At which byte of the file an answer begins. Raises: NoAnswer if that is not where it was asked to."""
    if response.status_code != 206:
        return 0
    if not re.fullmatch(rf"bytes {have}-\d{{1,18}}/\d{{1,18}}", response.headers.get("content-range", "")):
        raise NoAnswer(reason="it sent another part of the file than was asked for")
    return have
