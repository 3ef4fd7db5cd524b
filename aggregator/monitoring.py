"""What machines may see of an aggregator and where it tells them: ``monitoring`` in ``aggregator.json``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ValidationError

from medveil.handed import problem_of
from medveil.values import Frozen


class Monitoring(Frozen):
    """Everything that watches, and is off unless it is set."""

    hospitals: Literal["none", "index", "name"] = "index"
    """How a hospital is called in the metrics: not at all, by its place in the roster, or by its name."""

    @classmethod
    def read(cls, values: object) -> Self:
        """As they stand in the file. Raises: ValueError, in words."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"monitoring.{problem_of(error)}") from error
