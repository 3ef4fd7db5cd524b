"""From an aggregate to the next immutable model version."""

from __future__ import annotations

import datetime as dt
import hashlib

import numpy as np

from aggregator.blobs import Blobs, DamagedBlob
from medveil.errors import RemoteProtocolError
from medveil.plan import Plan
from medveil.rounds import ModelVersion
from medveil.strategies import State, advance
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors, model_hash, to_safetensors
from privacy.dp.policy import cost
from privacy.encoding import Aggregate


class WrongInitialModel(RemoteProtocolError):
    """The initial model is not the one that the study names."""

    code = "wrong-initial-model"

    def __init__(self) -> None:
        super().__init__(
            what="The initial model's hash is not the one in the study file.",
            meaning="The hospitals would approve one model and train another, so no study was created.",
            remedy="Use the initial.safetensors that was written together with the study file.",
        )


def first_version(plan: Plan, initial: bytes, blobs: Blobs) -> ModelVersion:
    """Check and keep the initial model. Raises: BadModelFile, WrongInitialModel."""
    study = plan.study
    vector = from_safetensors(initial, study.model.tensors)
    name = model_hash(vector, study.model.tensors).hex()
    if name != study.model.initial_model:
        raise WrongInitialModel()
    blobs.put_model(name, to_safetensors(vector, study.model.tensors))
    return ModelVersion(
        plan=plan.id,
        number=0,
        model=name,
        parent=None,
        round=0,
        survivors=(),
        epsilon=None,
        created=_now(),
    )


def next_version(
    plan: Plan,
    parent: ModelVersion,
    state_names: dict[str, str],
    aggregate: Aggregate,
    *,
    number: int,
    survivors: tuple[str, ...],
    blobs: Blobs,
) -> tuple[ModelVersion, dict[str, str]]:
    """Apply the study's strategy to the mean update and keep the new model and the optimiser's state.

    Args:
        number: the round.
    Raises: DamagedBlob if the parent model or the state is missing or not what it was; Diverged.
    """
    study = plan.study
    vector = _model(parent.model, study, blobs)
    state: State = {key: _state(name, blobs) for key, name in state_names.items()}
    stepped, new_state = advance(study, vector, aggregate.mean, state, number=number)
    name = model_hash(stepped, study.model.tensors).hex()
    blobs.put_model(name, to_safetensors(stepped, study.model.tensors))
    kept = {key: _keep(values, blobs) for key, values in new_state.items()}
    version = ModelVersion(
        plan=plan.id,
        number=parent.number + 1,
        model=name,
        parent=parent.model,
        round=number,
        survivors=survivors,
        epsilon=_epsilon(study, parent.number + 1),
        created=_now(),
    )
    return version, kept


def _model(name: str, study: Study, blobs: Blobs) -> Float32:
    vector = from_safetensors(blobs.model(name), study.model.tensors)
    if model_hash(vector, study.model.tensors).hex() != name:
        raise DamagedBlob()
    return vector


def _state(name: str, blobs: Blobs) -> Float32:
    data = blobs.model(name)
    if hashlib.sha256(data).hexdigest() != name:
        raise DamagedBlob()
    return np.frombuffer(data, "<f4")


def _keep(values: Float32, blobs: Blobs) -> str:
    data = values.astype("<f4", copy=False).tobytes()
    name = hashlib.sha256(data).hexdigest()
    blobs.put_model(name, data)
    return name


def _epsilon(study: Study, rounds: int) -> float | None:
    return None if study.privacy.kind == "none" else cost(study, rounds=rounds).epsilon_joint


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
