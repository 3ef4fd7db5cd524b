"""Each fault that a careless change could bring into private training is planted, and something refuses it.

A fault is planted in the product's own source text, function by function; the text that it replaces must be
there, so a fault that can no longer be planted fails its test, too.
"""

from __future__ import annotations

from typing import Any

import pytest

from hospital_node.ledger import Charge
from hospital_node.training import NotSafe, evaluation, gradients, mean, optimizer, run, self_check
from medveil import noise_policies
from medveil.study import Study
from medveil.tasks.classification import Classification
from medveil.tasks.segmentation import Segmentation
from medveil_imaging.models import ModelShape, build_model, initial_vector, outputs_for
from planting import plant
from privacy.dp import noise, policy
from tries import leading

SIZES = {"wavelet_head": (16, 16), "small_cnn": (16, 16), "position_head": (16, 16, 16)}
OPTIONS: dict[str, Any] = {"wavelet_head": {"scales": 1, "grid": 4}}
LOCAL: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 0.3,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90.0,
}
JOINT = LOCAL | {"kind": "joint", "honest_hospitals": 4}


def make(model: str = "small_cnn", *, centred: bool = False, **changes: Any) -> Study:
    film = len(SIZES[model]) == 2
    task = "classification" if film else "segmentation"
    classes = ("normal", "abnormal") if film else ("background", "front", "back")
    options = OPTIONS.get(model, {}) | ({"centred": True} if centred else {})
    spec, _ = initial_vector(model, ModelShape(SIZES[model], outputs_for(task, classes)), options, seed=1)
    content: dict[str, Any] = {
        "name": "planted",
        "task": task,
        "classes": classes,
        "model": {"name": model, "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": SIZES[model],
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 4, "local_steps": 4, "learning_rate": 1.0, "momentum": 0.5},
        "privacy": LOCAL,
        "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
        "cohort": {"min_hospitals": 4},
    }
    return Study.model_validate(content | changes)


STUDIES = {
    "films": lambda: make(),
    "sampled": lambda: make(privacy=LOCAL | {"sample_rate": 0.5}),
    "head": lambda: make("wavelet_head"),
    "centred": lambda: make("wavelet_head", centred=True),
    "volumes": lambda: make("position_head"),
    "val": lambda: make("wavelet_head", evaluation={"every_round": True}),
    "joint": lambda: make(privacy=JOINT, training={"rounds": 9, "local_steps": 1, "learning_rate": 1.0}),
}


Fault = tuple[str, Any, str, str, str, str]
"""Study, owner, function, the text, what replaces it, and the check that refuses."""
OPT, SOURCE = optimizer.PatientOptimizer, noise.NoiseSource
GIVEN = "self._noise.gaussian(len(piece), scale)"
LOOP = "taken(chosen, seen, most_bytes=piece)"
DRAW = "draw(patients, policy, noise)"
IMAGES = f"([Drawn(i[None], l[None]) for one in p for i, l in zip(one.images, one.labels)] for p in {LOOP})"
COINS = "noise.coins(len(patients), policy.sample_rate)"
DRAWN_NOISE = "_noise(noise, size, multiplier * scales[name], whole)"
SCALED = "values *= scale"
KEY = "secrets.token_bytes(KEY_BYTES)"
NEXT = "globals().__setitem__('N', globals().get('N', 0) + 1)"
TORCH, NUMPY = "__import__('torch')", "__import__('numpy')"
PRIVATE = "_train_private(given, module, patients, noise, shared)"
FAULTS: dict[str, Fault] = {
    # the table of the review
    "noise 0.9 % less": ("films", OPT, "add_noise", GIVEN, f"{GIVEN} * 0.991", "noise"),
    "noise asked 0.9 % less": ("head", OPT, "add_noise", ", scale)", ", scale * 0.991)", "noise"),
    "stream 0.9 % less": ("head", SOURCE, "gaussian", SCALED, f"{SCALED} * 0.991", "noise"),
    "images as patients, loop": ("films", run, "_train_private", LOOP, IMAGES, "one-patient"),
    "seeded generator": (
        "films",
        SOURCE,
        "gaussian",
        SCALED,
        f"values[:] = scale * {TORCH}.randn(size, generator={TORCH}.Generator().manual_seed(0)).numpy()",
        "noise",
    ),
    "key from a counter": ("films", SOURCE, "fresh", KEY, f"{NEXT} or N.to_bytes(32)", "noise"),
    "stream begins again": (
        "head",
        SOURCE,
        "gaussian",
        SCALED,
        "values = scale * self.__dict__.setdefault('again', {}).setdefault(size, values)",
        "noise",
    ),
    "clip after averaging": (
        "films",
        OPT,
        "clip_and_accumulate",
        "norms = ",
        "samples = [s.mean(0, keepdim=True) * len(s) for s in samples]; norms = ",
        "clipped-sum",
    ),
    "noise over the root of the steps": (
        "films",
        run,
        "_train_private",
        "policy=policy,",
        "policy=policy.model_copy(update={'noise_multiplier': policy.noise_multiplier / steps**0.5}),",
        "noise",
    ),
    "divides by the real number": (
        "films",
        run,
        "_train_private",
        "* given.declared_patients",
        "* len(patients)",
        "noise",
    ),
    "private mean, noise over the steps": (
        "centred",
        policy,
        "mean_policy",
        "/ math.sqrt(steps)",
        "/ steps",
        "noise",
    ),
    "evaluation noise halved": (
        "head",
        evaluation,
        "release",
        DRAWN_NOISE,
        f"{DRAWN_NOISE} / 2",
        "evaluation",
    ),
    "evaluation counts images": (
        "head",
        Classification,
        "bounded",
        'max(float(patient["images"][0]), 1.0)',
        "1.0",
        "evaluation",
    ),
    "coins once a round": (
        "sampled",
        run,
        "_train_private",
        DRAW,
        f"(once if step else (once := {DRAW}))",
        "draw",
    ),
    "joint share by h": (
        "joint",
        noise_policies.GaussianNoise,
        "own_multiplier",
        "math.sqrt(self.sharers)",
        "self.sharers",
        "noise",
    ),
    "mean of positives only": (
        "centred",
        mean,
        "noisy_mean",
        "in chosen]",
        "in chosen if one.patient.take(one.which)[1].any()]",
        "one-patient",
    ),
    "a charge pays twice": (
        "films",
        Charge,
        "begin",
        "if self._begun or self.entry.state not in OPEN:",
        "if False:",
        "charge",
    ),
    # relatives
    "sum clipped after the noise": (
        "films",
        OPT,
        "add_noise",
        "parts = torch.split(",
        "released *= min(1.0, self._policy.clip_norm / float(released.norm())); parts = torch.split(",
        "noise",
    ),
    "noise cut off at three deviations": (
        "films",
        OPT,
        "add_noise",
        GIVEN,
        f"{GIVEN}.clip(-3 * scale, 3 * scale)",
        "noise",
    ),
    "noise for half of the weights": (
        "films",
        OPT,
        "add_noise",
        GIVEN,
        f"{GIVEN} * (__import__('numpy').arange(len(piece)) < len(piece) // 2)",
        "noise",
    ),
    "noise drawn once and kept": (
        "films",
        OPT,
        "add_noise",
        GIVEN,
        f"(self._kept if hasattr(self, '_kept') else self.__dict__.setdefault('_kept', {GIVEN}))",
        "noise",
    ),
    "half of the noise drawn and doubled": (
        "films",
        OPT,
        "add_noise",
        GIVEN,
        "__import__('numpy').resize(self._noise.gaussian(len(piece) // 2, scale), len(piece))",
        "noise",
    ),
    "noise from torch": (
        "films",
        OPT,
        "add_noise",
        "torch.from_numpy(self._noise.gaussian(len(piece), scale))",
        "torch.randn(len(piece), dtype=torch.float64) * scale",
        "noise",
    ),
    "another source than the round's": (
        "films",
        run,
        "_train_private",
        "noise=noise,",
        "noise=NoiseSource(bytes(32)),",
        "noise",
    ),
    "no noise on an empty step": (
        "films",
        OPT,
        "add_noise",
        GIVEN,
        f"{GIVEN} * bool(released.any())",
        "noise",
    ),
    "noise shrinks with the rate": (
        "sampled",
        OPT,
        "add_noise",
        ", scale)",
        ", scale * self._policy.sample_rate)",
        "noise",
    ),
    "noise of the evaluation in training": (
        "films",
        OPT,
        "add_noise",
        "self._policy.own_multiplier",
        "self._policy.own_evaluation_multiplier",
        "noise",
    ),
    "sum carried into the next step": (
        "films",
        OPT,
        "add_noise",
        "released = torch.cat([p.summed_grad.detach().flatten() for p in self.params]).cpu()",
        "released = torch.cat([p.summed_grad.detach().flatten() for p in self.params]).cpu(); "
        "released += 0.5 * getattr(self, 'old', 0 * released); self.old = released.clone()",
        "one-patient",
    ),
    "step before the noise": (
        "films",
        OPT,
        "add_noise",
        "part.view_as(parameter).to(parameter.dtype)",
        "parameter.summed_grad",
        "noise",
    ),
    "divides by those drawn": (
        "films",
        OPT,
        "scale_grad",
        "self.expected_batch_size",
        "max(1, getattr(self, 'drawn', 1))",
        "noise",
    ),
    "coins tossed for images": (
        "sampled",
        gradients,
        "draw",
        COINS,
        "noise.coins(sum(map(len, patients)), policy.sample_rate)",
        "draw",
    ),
    "one coin for all": (
        "sampled",
        gradients,
        "draw",
        COINS,
        "__import__('numpy').repeat(noise.coins(1, policy.sample_rate), len(patients))",
        "draw",
    ),
    "everybody at a sampled price": ("sampled", gradients, "draw", "policy.sample_rate", "1.0", "draw"),
    "more images, more often": (
        "sampled",
        gradients,
        "draw",
        f"for index in {COINS}.nonzero()[0]:",
        f"for index in [*{COINS}.nonzero()[0], *(i for i, p in enumerate(patients) if len(p) > 3)]:",
        "one-patient",
    ),
    "the last patient drawn twice": (
        "films",
        gradients,
        "draw",
        "return sorted(drawn,",
        "return sorted(drawn + drawn[-1:],",
        "one-patient",
    ),
    "charge not begun": ("films", run, "train_unchecked", "charge.begin()", "pass", "charge"),
    "evaluation's charge not begun": ("films", evaluation, "release", "charge.begin()", "pass", "charge"),
    "one step more than paid": ("films", run, "_train_private", "range(steps)", "range(steps + 1)", "draw"),
    "steps grow with the patients": (
        "films",
        run,
        "_train_private",
        "range(steps)",
        "range(steps + len(patients) - 2)",
        "draw",
    ),
    "weights nudged by labels": (
        "films",
        run,
        "train_unchecked",
        PRIVATE,
        f"{PRIVATE}; next(module.parameters()).data.add_(1e-4 * sum(len(p) for p in patients))",
        "way-out",
    ),
    "val scored with the training's noise": (
        "val",
        evaluation,
        "release",
        "charge.event.noise_multiplier",
        "study.privacy.own_multiplier * 0.1",
        "evaluation",
    ),
    "val noise forgets the rounds": (
        "val",
        policy,
        "round_event",
        "study.training.rounds if split is Split.VAL else 1",
        "1",
        "evaluation",
    ),
    "evaluation noise of one class": (
        "head",
        Classification,
        "noise_scales",
        "dict.fromkeys(self.released(study), float(np.sqrt(len(scored_classes(study)))))",
        "{n: 1.0 if n.startswith('positives') else 0.5 for n in self.released(study)}",
        "evaluation",
    ),
    "structures share one bound": (
        "volumes",
        Segmentation,
        "noise_scales",
        "(len(study.classes) - 1) * ",
        "",
        "evaluation",
    ),
    "a dice is not centred": (
        "volumes",
        Segmentation,
        "bounded",
        "- CENTRE * seen",
        "- 2 * CENTRE * seen",
        "evaluation",
    ),
    "evaluation's joint share by h": (
        "joint",
        noise_policies.GaussianNoise,
        "own_evaluation_multiplier",
        "math.sqrt(self.evaluation_sharers)",
        "self.evaluation_sharers",
        "evaluation",
    ),
    "broken gradients are summed": (
        "films",
        OPT,
        "clip_and_accumulate",
        "if norms.is_cuda or bool(broken.any()):",
        "if False:",
        "one-patient",
    ),
    "no margin, no clip above": (
        "films",
        optimizer,
        "clip_factors",
        ".clamp(max=1.0)",
        ".clamp(min=1.0)",
        "clipped-sum",
    ),
    "a patient at the end of a chunk counts again": (
        "films",
        gradients,
        "_by_chunks",
        "done += len(chunk)",
        "done += max(1, len(chunk) - (len(chunk) < len(drawn)))",
        "clipped-sum",
    ),
    "mean counts images": (
        "centred",
        mean,
        "noisy_mean",
        "[Drawn(*one.patient.take(one.which)) for one in chosen]",
        "[Drawn(*one.patient.take([k])) for one in chosen for k in one.which]",
        "one-patient",
    ),
    "mean divides by the real number": (
        "centred",
        mean,
        "noisy_mean",
        "expected_patients=declared_patients",
        "expected_patients=len(patients)",
        "noise",
    ),
    "mean without a charge's noise": (
        "centred",
        mean,
        "noisy_mean",
        "noise=noise",
        "noise=NoiseSource.fresh()",
        "noise",
    ),
    "fresh sources share a key": ("head", SOURCE, "fresh", KEY, "bytes(range(KEY_BYTES))", "noise"),
    "key from a hashed counter": (
        "head",
        SOURCE,
        "fresh",
        KEY,
        f"({NEXT}, __import__('hashlib').sha256(bytes([N])).digest())[1]",
        "noise",
    ),
    "key from the seeded generator of Python": (
        "head",
        SOURCE,
        "fresh",
        KEY,
        "__import__('random').randbytes(32)",
        "noise",
    ),
    "short key, padded": ("head", SOURCE, "fresh", KEY, "secrets.token_bytes(4) * 8", "noise"),
    "coins a little too often": ("sampled", SOURCE, "coins", "< rate", "< rate * 1.01", "draw"),
}


TELLING = {
    "noise 0.9 % less", "noise asked 0.9 % less", "images as patients, loop", "seeded generator",
    "key from a counter", "stream begins again", "clip after averaging", "divides by the real number",
    "private mean, noise over the steps", "evaluation noise halved", "evaluation counts images",
    "coins once a round", "joint share by h", "mean of positives only", "a charge pays twice",
    "noise for half of the weights", "sum carried into the next step", "everybody at a sampled price",
    "weights nudged by labels", "structures share one bound",
}  # fmt: skip
"""Each check in each of its ways, and the smallest fault of each; the others in ``make test-all``."""


def test_every_check_has_a_telling_fault() -> None:
    assert {FAULTS[name][-1] for name in TELLING} == {fault[-1] for fault in FAULTS.values()}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in TELLING)) for n in FAULTS]
)
def test_a_planted_fault_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, owner, function, old, new, check = FAULTS[name]
    chosen = STUDIES[kind]()
    module = build_model(chosen)
    plant(monkeypatch, owner, function, old, new)
    with pytest.raises(NotSafe) as caught:
        self_check(chosen, module)
    assert (caught.value.code, caught.value.check) == ("not-safe", check)


@pytest.mark.parametrize("kind", leading(sorted(STUDIES, key=lambda k: k not in ("films", "joint")), 2))
def test_without_a_fault_every_study_passes(kind: str) -> None:
    chosen = STUDIES[kind]()
    self_check(chosen, build_model(chosen))
