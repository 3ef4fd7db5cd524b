"""A researcher at an aggregator without a network, and a small study that has really been played."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from aggregator.access.tls import make_certificates
from door import Door
from medveil.metrics import empty
from medveil.study import Study
from medveil.tasks import Sums
from medveil_research.enrolment import Enrolment, enrol
from medveil_research.studies import StudyOptions, new_study
from world import Site, World, make_sites, make_world

ADDRESS = "https://here:1"


def films(**changes: object) -> tuple[Study, bytes]:
    """A study of films without noise, as a researcher writes it, and its initial model."""
    options: dict[str, object] = {
        "name": "films", "task": "classification", "profile": "xray", "model": "small_cnn", "size": (32, 32),
        "hospitals": 3, "rounds": 2, "privacy": "none", "classes": ("normal", "abnormal"),
    }  # fmt: skip
    return new_study(StudyOptions(**(options | changes)))  # type: ignore[arg-type]


def counts(study: Study, index: int) -> Sums:
    """What a hospital counts: ten patients, a model that is right in most of them."""
    sums = empty(study)
    bins = len(sums["positives/abnormal"])
    sums["positives/abnormal"][[bins // 4, bins // 2 + index, bins - 1]] = 1.0, 2.0, 2.0
    sums["negatives/abnormal"][[0, bins // 3, bins // 2 + index + 1]] = 2.0, 2.0, 1.0
    for name in ("images", "patients"):
        sums[name][:] = 10.0
    sums["correct"][:] = 8.0
    return sums


@contextmanager
def study_world(folder: Path, **changes: object) -> Iterator[tuple[World, list[Site]]]:
    """A world with a real study, and its hospitals: each moves the model a little, by its number."""
    study, initial = films(**changes)
    made = make_world(folder, whole=(study, initial))
    size = study.model.tensors.size

    def update(index: int, number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.full(size, 0.001 * index * number, np.float32)

    yield made, make_sites(made, update=update, counted=counts)
    made.store.close()


@dataclass
class Line(httpx.BaseTransport):
    """Requests go straight into the application; the line may break in the middle of an answer."""

    door: Door
    cuts: list[int] = field(default_factory=list)
    """For each of the next answers with a model: after how many bytes the line breaks."""
    down: int = 0
    """So many of the next requests do not get through."""
    asked: list[httpx.Request] = field(default_factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.down:
            self.down -= 1
            raise httpx.ConnectError("no way")
        path = request.url.raw_path.decode("ascii")
        answer = self.door.raw(request.method, path, request.content, dict(request.headers))
        body = iter([answer.content])
        if self.cuts and "/models/" in path:
            body = _broken(answer.content, self.cuts.pop(0))
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)


def _broken(content: bytes, after: int) -> Iterator[bytes]:
    yield content[:after]
    raise httpx.ReadError("cut")


@contextmanager
def reaching(door: Door) -> Iterator[Line]:
    """Every connection that a researcher's client opens leads to this application."""
    line, real = Line(door), httpx.Client

    def connect(**options: object) -> httpx.Client:
        return real(**options | {"transport": line, "verify": True})  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medveil_research.client.httpx.Client", connect)
        yield line


def authority(folder: Path) -> Path:
    """A ca.pem."""
    make_certificates(folder, ("here",))
    return folder / "ca.pem"


def token(world: World, name: str, role: str = "researcher") -> str:
    """A one-time token, good until 2100."""
    text = secrets.token_hex(24)
    world.store.register.add_token(text, name=name, role=role, expires=4.1e9)
    return text


def enrolled(world: World, where: Path, name: str, used: str = "") -> Enrolment:
    """A researcher with a folder of the name, in ``where``."""
    pem = where / "ca.pem"
    pem = pem if pem.exists() else authority(where)
    return enrol(where / name, name=name, aggregator=ADDRESS, authority=pem, token=used or token(world, name))
