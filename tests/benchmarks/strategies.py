"""Every strategy over hospitals with unlike patients: rounds to a target, where it ends, and what it sends.

``--data FOLDER`` holds mnist, xray-chest, mri-hippocampus and mri-brain; ``--write FILE`` puts the table into
a Markdown page (docs/results.md). The federation is
:func:`medveil_research.comparison.engine.run_federated`; each study is what ``medveil study new --strategy``
writes, without noise and with the same plain local steps, so that strategies differ and nothing else. An
adaptive strategy's rate is the best of three on the validation patients of the same sites; the others run as
they are shipped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.training import FeatureCache
from medveil.rounds import RoundKind
from medveil.strategies import STRATEGIES, Demanding, strategy_of
from medveil.study import Study, Target
from medveil.tasks import TASKS
from medveil.tensors import from_safetensors
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.formats.idx import read_idx
from medveil_imaging.sources.raw import read_bytes
from medveil_imaging.sources.site import SiteData, read_site
from medveil_imaging.transforms import z_score
from medveil_research.comparison.engine import run_federated
from medveil_research.evaluate import Split
from medveil_research.studies import StudyOptions, new_study
from privacy.encoding import params_for
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

ADAPTIVE = ("fedadam", "fedyogi", "fedadagrad")
DIGITS, TESTED, CLIENTS = 3000, 1000, 5
Sites = Callable[[Path, Study], list[SiteData]]


@dataclass(frozen=True)
class Setting:
    """Hospitals with unlike patients, and what is learned from them."""

    what: str
    options: dict[str, Any]
    read: Sites
    figure: str
    """By which it is judged."""
    target: float
    """Of that figure."""
    rates: tuple[float, ...]
    """Of an adaptive strategy, in model units; one is chosen on validation patients."""
    training: dict[str, Any] = field(default_factory=dict)
    """Instead of the recipe's, for every strategy."""


def shards(folder: Path, study: Study) -> list[SiteData]:
    """Digits in the order of their labels, in blocks, two for each client: each sees about two digits."""
    found = []
    train, labels = (_idx(folder, "train", kind)[:DIGITS] for kind in ("images-idx3", "labels-idx1"))
    test, tested = (_idx(folder, "t10k", kind)[:TESTED] for kind in ("images-idx3", "labels-idx1"))
    for client in range(CLIENTS):
        mine, judged = (_two_blocks(those, client) for those in (labels, tested))
        held = mine[19::20]
        split = {"train": np.setdiff1d(mine, held), "val": held}
        people = {name: _digits(train[where], labels[where]) for name, where in split.items()}
        found.append(
            SiteData(
                f"client-{client + 1}", **people, test=_sheets(test[judged], tested[judged]), problems=()
            )
        )
    return found


def _idx(folder: Path, which: str, kind: str) -> Any:
    return read_idx(read_bytes(folder / "mnist" / f"{which}-{kind}-ubyte.gz"))


def _two_blocks(labels: Any, client: int) -> Any:
    """McMahan and others' pathological cut: two blocks of the pictures in the order of their labels."""
    blocks = np.array_split(np.argsort(labels, kind="stable"), 2 * CLIENTS)
    return np.concatenate(blocks[client::CLIENTS])


def _digits(pictures: Any, labels: Any) -> tuple[PatientImages, ...]:
    """Each picture a patient of its own."""
    return tuple(
        PatientImages(
            str(k), z_score(torch.from_numpy(p.astype(np.float32))[None])[None], torch.tensor([int(y)])
        )
        for k, (p, y) in enumerate(zip(pictures, labels, strict=True))
    )


def _sheets(pictures: Any, labels: Any, size: int = 10) -> tuple[PatientImages, ...]:
    """To judge by: pictures in groups, which is counted faster and comes to the same share of right ones."""
    ones = _digits(pictures, labels)
    groups = [ones[k : k + size] for k in range(0, len(ones), size)]
    return tuple(
        PatientImages(f"sheet {k}", torch.cat([o.images for o in g]), torch.cat([o.labels for o in g]))
        for k, g in enumerate(groups)
    )


def sites_in(pack: str, *names: str) -> Sites:
    """The folders of a pack."""
    return lambda folder, study: [read_site(folder / pack / name, study) for name in names]


SETTINGS = {
    "digits": Setting(
        f"digits, two label shards a client ({CLIENTS} clients, {DIGITS:,} digits)",
        {
            "task": "classification",
            "profile": "xray",
            "classes": [str(k) for k in range(10)],
            "model": "wavelet_head",
            "size": (28, 28),
            "options": {"scales": 2, "grid": 7},
            "hospitals": CLIENTS,
            "rounds": 30,
        },
        shards,
        "accuracy",
        0.85,
        (0.1, 0.3, 1.0),
        {"batch_images": 64, "learning_rate": 30.0},
    ),
    "films": Setting(
        "films of five sites in three hospitals",
        {
            "task": "classification",
            "profile": "xray",
            "classes": ["normal", "abnormal"],
            "hospitals": 5,
            "rounds": 12,
        },
        sites_in("xray-chest", "guangzhou-a", "guangzhou-b", "guangzhou-c", "bethesda-a", "hannover-a"),
        "auroc",
        0.95,
        (0.1, 0.3, 1.0),
        {"batch_images": 64},
    ),
    "hippocampus": Setting(
        "hippocampus of four scanners",
        {
            "task": "segmentation",
            "profile": "mri",
            "classes": ["background", "anterior", "posterior"],
            "model": "position_head",
            "hospitals": 4,
        },
        sites_in("mri-hippocampus", "hippo-a", "hippo-b", "hippo-c", "hippo-d"),
        "dice",
        0.75,
        (0.1, 0.3, 1.0),
        {"optimizer": "sgd", "learning_rate": 4.0, "local_steps": 5, "local_epochs": None},
    ),
    "brain age": Setting(
        "age from the brain, sites cut by age",
        {
            "task": "regression",
            "profile": "brain",
            "target": Target(column="age", low=18, high=90, unit="years"),
            "hospitals": 3,
        },
        sites_in("mri-brain", "brain-a", "brain-b", "brain-c"),
        "mae",
        8.5,
        (0.1, 0.3, 1.0),
        {"local_steps": 20},
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One strategy in one setting."""

    setting: str
    strategy: str
    options: dict[str, float]
    curve: list[float] = field(repr=False)
    """The figure on the test patients of all sites after each round."""
    reached: int | None
    """The first round at the target."""
    upload_mb: float
    """Of one hospital in one round, masked."""

    @property
    def final(self) -> float:
        """After the last round."""
        return self.curve[-1]


def run(name: str, strategy: str, sites: Sequence[SiteData], caches: Sequence[FeatureCache]) -> Outcome:
    """One strategy, its rate chosen on validation patients where it is adaptive."""
    setting, options = SETTINGS[name], dict[str, float]()
    if strategy in ADAPTIVE:
        tried = {r: _curve(name, strategy, {"rate": r}, sites, caches, "val")[1][-1] for r in setting.rates}
        sign = 1 if _falls(name) else -1
        options = {"rate": min(tried, key=lambda r: sign * tried[r])}
    study, curve = _curve(name, strategy, options, sites, caches, "test")
    reached = [
        k for k, v in enumerate(curve, 1) if (v <= setting.target if _falls(name) else v >= setting.target)
    ]
    size = 8 * params_for(study, RoundKind.TRAIN, len(sites)).words / 1e6
    found = Outcome(name, strategy, options, curve, reached[0] if reached else None, size)
    print(f"{found} final {found.final:.4f}", file=sys.stderr, flush=True)
    return found


def _falls(name: str) -> bool:
    """Whether a smaller figure is the better one."""
    return not TASKS[SETTINGS[name].options["task"]].higher_is_better


def study_of(name: str, strategy: str, options: dict[str, float]) -> tuple[Study, bytes]:
    """As ``medveil study new`` writes it."""
    wanted = SETTINGS[name].options | {"strategy": strategy, "strategy_options": options}
    study, initial = new_study(
        StudyOptions(name="strategies", privacy="none", seed=0, weights="equal", **wanted)
    )
    server = strategy_of(study)
    training = study.training.model_copy(update=SETTINGS[name].training | {"schedule": "constant"})
    if isinstance(server, Demanding):
        training = server.suited(training)
    return study.model_copy(update={"training": training}), initial


def _curve(
    name: str,
    strategy: str,
    options: dict[str, float],
    sites: Sequence[SiteData],
    caches: Sequence[FeatureCache],
    split: Split,
) -> tuple[Study, list[float]]:
    study, initial = study_of(name, strategy, options)
    vector = from_safetensors(initial, study.model.tensors)
    trained = run_federated(study, vector, sites, watched=split, caches=caches)
    return study, [figures[SETTINGS[name].figure] for figures in trained.curve]


def section(name: str, found: Sequence[Outcome]) -> list[str]:
    """One setting's part of the page of results."""
    setting, best = SETTINGS[name], min if _falls(name) else max
    lines = [
        f"## Strategies: {setting.what}",
        "",
        f'Written by `tests/benchmarks/strategies.py --data FOLDER --only "{name}" --write docs/results.md`.',
        f"Machine: {cpu()}, no GPU, one thread.",
        "",
        "Without noise, every hospital counting alike, the same plain local steps for all (`fedsgd`: one),",
        "one seed. An adaptive strategy's rate is the best of three on the validation patients of",
        f"these sites. The figure is {setting.figure} on the test patients of all sites together, the target",
        f"{setting.target:g}. *Sent*: what one hospital uploads until then, masked.",
        "",
        "| strategy | rounds to the target | sent | best round | final |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        rate = "".join(f", {k} {v:g}" for k, v in one.options.items())
        rounds = "not reached" if one.reached is None else str(one.reached)
        sent = "" if one.reached is None else f"{1000 * one.reached * one.upload_mb:.3g} kB"
        ends = f"{best(one.curve):.3f} | **{one.final:.3f}**"
        lines.append(f"| {one.strategy}{rate} | {rounds} of {len(one.curve)} | {sent} | {ends} |")
    return lines


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="settings, separated by commas; all without it")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    rows = []
    for name in given.only.split(",") if given.only else SETTINGS:
        sites = SETTINGS[name].read(given.data, study_of(name, "fedavg", {})[0])
        caches = [FeatureCache() for _ in sites]
        found = [run(name, strategy, sites, caches) for strategy in STRATEGIES]
        rows += [Row(f"{o.setting}: {o.strategy}", o.final, "") for o in found]
        if given.write is not None:
            put_section(given.write, f"strategies, {name}", "\n".join(section(name, found)))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
