"""Local training and evaluation: what a hospital computes on its own patients."""

from hospital_node.training.checked import train
from hospital_node.training.checks import self_check
from hospital_node.training.evaluation import contributions, evaluate, release
from hospital_node.training.features import FeatureCache
from hospital_node.training.run import (
    Diverged,
    NoCharge,
    TrainingRound,
    choose_device,
    steps_in_round,
)
from hospital_node.training.safety import NotSafe
from hospital_node.training.whole import NoiseCut

__all__ = [
    "Diverged",
    "FeatureCache",
    "NoCharge",
    "NoiseCut",
    "NotSafe",
    "TrainingRound",
    "choose_device",
    "contributions",
    "evaluate",
    "release",
    "self_check",
    "steps_in_round",
    "train",
]
