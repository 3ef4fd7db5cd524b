"""What machines may see of an aggregator and where it tells them: ``monitoring`` in ``aggregator.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from medveil.handed import problem_of
from medveil.values import Frozen


class AuditTarget(Frozen):
    """The archive that a running aggregator sends its audit log to."""

    to: Annotated[str, Field(pattern=r"^syslog(\+tls)?://", max_length=300)]
    """``syslog+tls://HOST:PORT``, or ``syslog://HOST:PORT`` without TLS."""
    authority: Path | None = None
    """That signed the archive's certificate (PEM); those of this machine if left out."""
    certificate: Path | None = None
    """The aggregator's own for it, with its key (PEM), where the archive asks for one."""


class Monitoring(Frozen):
    """Everything that watches, and is off unless it is set."""

    hospitals: Literal["none", "index", "name"] = "index"
    """How a hospital is called in the metrics: not at all, by its place in the roster, or by its name."""
    audit: AuditTarget | None = None
    """Where the audit log goes while the aggregator runs, if anywhere."""

    @classmethod
    def read(cls, values: object) -> Self:
        """As they stand in the file. Raises: ValueError, in words."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"monitoring.{problem_of(error)}") from error
