"""Where spans are told, as settings name it; apart from :mod:`medveil.tracing`: commands start without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from medveil.reachability import is_loopback
from medveil.values import Frozen


class TraceTarget(Frozen):
    """The collector that is told of spans."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=500)]
    """``https://HOST:4318/v1/traces``; ``http://`` on this machine only."""
    authority: Path | None = None
    """That signed the collector's certificate (PEM); those of this machine if left out."""
    token: Path | None = None
    """File with a bearer token, where the collector asks for one."""
    proxy: Annotated[str, Field(max_length=500, repr=False)] = ""
    """On the way to it; the environment's if empty, ``none`` for none."""

    @model_validator(mode="after")
    def _in_the_clear_here_only(self) -> TraceTarget:
        parts = urlsplit(self.endpoint)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("http:// is for a collector on this machine; use https://")
        return self
