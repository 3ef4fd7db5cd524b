"""What machines may see of an aggregator and where it tells them: ``monitoring`` in ``aggregator.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from medveil.trace_target import TraceTarget
from medveil.values import Frozen

ADDRESS = r"^[^\s@<>,;:\\\"]+@[A-Za-z0-9.-]+$"


class AuditTarget(Frozen):
    """The archive that a running aggregator sends its audit log to."""

    to: Annotated[str, Field(pattern=r"^syslog(\+tls)?://", max_length=300)]
    """``syslog+tls://HOST:PORT``, or ``syslog://HOST:PORT`` without TLS."""
    authority: Path | None = None
    """That signed the archive's certificate (PEM); those of this machine if left out."""
    certificate: Path | None = None
    """The aggregator's own for it, with its key (PEM), where the archive asks for one."""


Event = Literal["round.waiting", "study.finished", "hospital.refused", "certificate.ends", "attempt.failed"]
EVENTS: tuple[Event, ...] = get_args(Event)
Names = Annotated[tuple[Event, ...], Field(min_length=1)]


class Webhook(Frozen):
    """An address that is told of events by a signed POST."""

    kind: Literal["webhook"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=1000, repr=False)]
    """``https://…``; its path may be a secret, so it is never shown. ``http://`` only where ``private``."""
    secret: Path = Path("notify.secret")
    """File of the key under the signatures, in the aggregator's folder unless the path is absolute."""
    events: Names = EVENTS
    authority: Path | None = None
    """That signed the receiver's certificate (PEM); those of this machine if left out."""
    private: bool = False
    """The receiver may have an address of this machine or of a private network."""
    proxy: Annotated[str, Field(max_length=500, repr=False)] = ""
    """On the way to it; the environment's if empty, ``none`` for none."""


class Mail(Frozen):
    """People who are told of events by e-mail, over TLS."""

    kind: Literal["mail"]
    server: Annotated[str, Field(pattern=r"^[^\s/:@]+:[0-9]{1,5}$", max_length=300)]
    """``host:port``; 465 is usual for ``tls``, 587 for ``starttls``."""
    tls: Literal["tls", "starttls"] = "starttls"
    sender: Annotated[str, Field(pattern=ADDRESS, max_length=200)]
    to: Annotated[
        tuple[Annotated[str, Field(pattern=ADDRESS, max_length=200)], ...], Field(min_length=1, max_length=20)
    ]
    user: Annotated[str, Field(max_length=200)] = ""
    password: Path | None = None
    """File with the password of ``user``, in the aggregator's folder unless the path is absolute."""
    events: Names = EVENTS
    authority: Path | None = None
    """That signed the server's certificate (PEM); those of this machine if left out."""


Receiver = Annotated[Webhook | Mail, Field(discriminator="kind")]


class Monitoring(Frozen):
    """Everything that watches, and is off unless it is set."""

    hospitals: Literal["none", "index", "name"] = "index"
    """How a hospital is called in the metrics: not at all, by its place in the roster, or by its name."""
    audit: AuditTarget | None = None
    """Where the audit log goes while the aggregator runs, if anywhere."""
    notify: Annotated[tuple[Receiver, ...], Field(max_length=8)] = ()
    """Who is told when something waits for a person."""
    traces: TraceTarget | None = None
    """The collector that is told how long each attempt's parts took, if any."""
    waiting_minutes: Annotated[float, Field(ge=1, le=100_000)] = 30.0
    """After so long in one phase, or between rounds, a study counts as waiting."""
