"""What every value that is written down has in common: it does not change, and its names look alike."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medveil.ids import NAME

Name = Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PrivacyKind = Literal["none", "local", "joint"]
NoiseKind = Literal["local", "joint"]
Drawn = Literal["gaussian", "discrete"]
"""How noise is drawn: in floating point, or as exact whole numbers."""
MaskGraph = Literal["complete", "hidden"]
Weights = Literal["declared", "equal", "squared"]


class Frozen(BaseModel):
    """Immutable, and strict about unknown keys: a misspelt option is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
