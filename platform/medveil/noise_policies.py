"""Whether and how a study hides one patient: secure aggregation only, or Gaussian noise per patient."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medveil.values import Drawn, Frozen, PositiveFloat


class NoPrivacy(Frozen):
    """Secure aggregation only. A hospital's own policy must allow it."""

    kind: Literal["none"] = "none"

    @property
    def counts_on_others(self) -> bool:
        """Whether a promise rests on the noise of other hospitals."""
        return False


class GaussianNoise(Frozen):
    """Patient-level DP-SGD: what the two noise policies have in common.

    The record is a patient with all images (add or remove one patient). Each step every patient enters with
    probability ``sample_rate``; the mean gradient over at most ``images_per_patient`` of that patient's
    images is clipped to ``clip_norm``; Gaussian noise is added to the sum over patients.
    """

    clip_norm: PositiveFloat
    clipping: Literal["flat", "unit"] = "flat"
    """``flat``: longer gradients are shortened to clip_norm. ``unit``: every gradient is scaled to it."""
    noise_multiplier: PositiveFloat
    """Standard deviation in units of clip_norm of the noise that ``epsilon`` rests on."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    images_per_patient: Annotated[int, Field(ge=1)] = 4
    epsilon: PositiveFloat
    """What the whole study, evaluation included, costs each patient; a node computes it again and refuses
    an understatement."""
    evaluation_multiplier: PositiveFloat
    """Standard deviation of the noise on the final evaluation's sums, in units of the most that one patient
    adds; a validation round has sqrt(rounds) times as much, so all of them cost what the final one does."""
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    noise: Annotated[Drawn, Field(exclude_if=lambda given: given == "gaussian")] = "gaussian"
    """``gaussian``: drawn in floating point. ``discrete``: exact discrete Gaussian noise of the same price
    (:mod:`privacy.dp.discrete`), in whole steps of a grid on which every patient's share is, too."""
    matched: Annotated[bool, Field(exclude_if=lambda given: not given)] = False
    """Whether each round has noise of its own, the less the more its steps count in the final model
    (``privacy/dp/matched.py``). ``noise_multiplier`` is then the equal noise of the same price."""
    despite_noise: bool = False
    """The author insisted on a study whose noise exceeds what can be learned; hospitals see this mark."""
    patient_mu: Annotated[PositiveFloat | None, Field(exclude_if=lambda given: given is None)] = None
    """The most that training takes of one patient, as the mu of one Gaussian release
    (:mod:`privacy.dp.individual`); None: what all steps take of a patient whose gradients are all clipped.

    With it a step costs a patient only what the gradient was long, whoever has given all of it adds no more,
    and the noise may be smaller, or the rounds more, than all steps at the full norm would allow."""

    @model_validator(mode="after")
    def _can_be_filtered(self) -> Self:
        if self.patient_mu is not None and self.sample_rate < 1:
            raise ValueError("patient_mu wants every patient in each step (sample_rate = 1)")
        if self.patient_mu is not None and self.clipping != "flat":
            raise ValueError("patient_mu wants clipping = 'flat': 'unit' makes every gradient cost all")
        if self.patient_mu is not None and self.noise != "gaussian":
            raise ValueError(
                "patient_mu wants noise = 'gaussian': a share of whole steps is longer than it was"
            )
        return self

    @property
    def sharers(self) -> int:
        """Hospitals whose noise together makes ``noise_multiplier``."""
        return 1

    @property
    def evaluation_sharers(self) -> int:
        """Hospitals whose noise together makes ``evaluation_multiplier``."""
        return self.sharers

    @property
    def counts_on_others(self) -> bool:
        """Whether ``epsilon`` rests on the noise of other hospitals, in whichever sums."""
        return self.evaluation_sharers > 1

    @property
    def own_multiplier(self) -> float:
        """What one hospital adds to its update by itself, in units of clip_norm."""
        return self.noise_multiplier / math.sqrt(self.sharers)

    @property
    def own_evaluation_multiplier(self) -> float:
        """What one hospital adds to its final evaluation by itself, in units of a patient's largest share."""
        return self.evaluation_multiplier / math.sqrt(self.evaluation_sharers)

    @property
    def own_patient_mu(self) -> float | None:
        """``patient_mu`` by one hospital's own noise."""
        return None if self.patient_mu is None else self.patient_mu * math.sqrt(self.sharers)


class LocalNoise(GaussianNoise):
    """Each hospital's own noise bounds what anybody can learn of any one of its patients.

    An evaluation is one sum of single releases, so its noise may be shared as ``JointNoise`` shares that of
    all sums (docs/decisions/0063-figures-share-their-noise.md). Training never is: a hospital's steps within
    a round are protected by its own noise only.
    """

    kind: Literal["local"] = "local"
    honest_hospitals: Annotated[int, Field(ge=2, le=2000)] | None = Field(
        default=None, exclude_if=lambda given: given is None
    )
    """Hospitals whose noise the figures count on; None: each hospital's own is enough for them, too.

    With it ``epsilon`` holds for validation and test patients as it does under ``JointNoise``, and against
    everybody else together a patient of theirs has only the own hospital's share of the figures' noise."""

    @property
    def evaluation_sharers(self) -> int:
        """Hospitals whose noise together makes ``evaluation_multiplier``."""
        return self.honest_hospitals or 1


class JointNoise(GaussianNoise):
    """The noise of several hospitals adds up inside the masked sum: less noise for the same epsilon.

    ``epsilon`` holds if at least ``honest_hospitals`` of the hospitals in every sum add their noise and keep
    it to themselves; against everybody else together, a patient has only the own hospital's share of it.
    One step a round: only the sum of single steps is known to be protected by the noise of all.
    """

    kind: Literal["joint"] = "joint"
    honest_hospitals: Annotated[int, Field(ge=2, le=2000)]

    @property
    def sharers(self) -> int:
        """Hospitals whose noise together makes the multipliers."""
        return self.honest_hospitals


Privacy = Annotated[NoPrivacy | LocalNoise | JointNoise, Field(discriminator="kind")]
