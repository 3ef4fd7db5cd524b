"""The researcher's connection to an aggregator: read a study's progress and its models."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, sign_request
from medveil.messages import Enrol, enrolment_path, seconds_to_wait
from medveil.reachability import check_certificate, why
from medveil.shown import plain

PATIENCE_S = 30.0
"""How long a request goes on asking an aggregator that says it has no time."""
BUSY = (429, 502, 503, 504)


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
        self._client = httpx.Client(base_url=address, verify=context, timeout=30.0)

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

    def plans(self) -> list[dict[str, Any]]:
        """One line per plan."""
        found: list[dict[str, Any]] = self._send("GET", "/v1/status").json()
        return found

    def status(self, plan: str) -> dict[str, Any]:
        """A plan's attempts, model versions and open phase."""
        found: dict[str, Any] = self._send("GET", f"/v1/plans/{plan}/status").json()
        return found

    def model(self, plan: str, model: str) -> bytes:
        """A model version as safetensors."""
        return self._send("GET", f"/v1/plans/{plan}/models/{model}").content

    def _send(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        end = time.monotonic() + PATIENCE_S
        while True:
            response = self._once(method, path, body)
            pause = seconds_to_wait(response.headers.get("retry-after"))
            if response.status_code not in BUSY or time.monotonic() + pause > end:
                break
            time.sleep(pause)
        if response.status_code >= 400:
            raise NoAnswer(reason=f"{response.status_code} {plain(response.text[:1000], 200)}")
        return response

    def _once(self, method: str, path: str, body: bytes) -> httpx.Response:
        request = self._client.build_request(method, path, content=body)
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._identity, method, target, body).headers())
        try:
            return self._client.send(request)
        except httpx.TransportError as error:
            check_certificate(error)
            raise NoAnswer(reason=why(error)) from error
