"""Who makes a study's sums: how many hospitals, and whether a person may be in two of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medveil.values import Frozen, Sha256


class Cohort(Frozen):
    """How many hospitals make a sum that hides each of them."""

    min_hospitals: Annotated[int, Field(ge=3)] = 3
    max_hospitals: Annotated[int, Field(ge=3, le=2000)] = 10
    """At most 128 with the complete mask graph."""
    persons: Annotated[Sha256 | None, Field(exclude_if=lambda given: given is None)] = None
    """Hash of the persons file by which nobody is in two hospitals (:mod:`medveil.persons`)."""
