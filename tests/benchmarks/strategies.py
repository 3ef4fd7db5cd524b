"""Every strategy over hospitals with unlike patients: rounds to a target, where it ends, and what it sends.

``--data FOLDER`` holds mnist, xray-chest, mri-hippocampus and mri-brain; ``--write FILE`` puts the table into
a Markdown page (docs/results.md). The federation is
:func:`medveil_research.comparison.engine.run_federated`; each study is what ``medveil study new --strategy``
writes, without noise and with the same plain local steps, so that strategies differ and nothing else. An
adaptive strategy's rate is the best of three on the validation patients of the same sites, chosen once; the
others run as they are shipped. ``--seeds N`` makes each run N times, from other initial weights where the
network has some, with other shuffling; ``--keep FOLDER`` keeps each finished run, so that a benchmark that
was stopped goes on.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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
    """One strategy in one setting, from one seed."""

    setting: str
    strategy: str
    seed: int
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


@dataclass(frozen=True)
class Federation:
    """The sites of a setting."""

    name: str
    sites: Sequence[SiteData]
    caches: Sequence[FeatureCache]


def runs(hospitals: Federation, strategy: str, seeds: int, keep: Path | None) -> list[Outcome]:
    """One strategy from every seed, those excepted that were kept."""
    found: list[Outcome] = []
    for seed in range(seeds):
        path = None if keep is None else keep / f"{hospitals.name} {strategy} {seed}.json"
        if path is not None and path.exists():
            found.append(Outcome(**json.loads(path.read_text())))
            continue
        options = found[0].options if found else _chosen(hospitals, strategy)
        found.append(run(hospitals, strategy, options, seed))
        if path is not None:
            path.write_text(json.dumps(asdict(found[-1])))
    return found


def _chosen(hospitals: Federation, strategy: str) -> dict[str, float]:
    """The rate of an adaptive strategy that is best on validation patients."""
    if strategy not in ADAPTIVE:
        return {}
    rates = SETTINGS[hospitals.name].rates
    tried = {rate: _curve(hospitals, strategy, {"rate": rate}, 0, "val")[1][-1] for rate in rates}
    sign = 1 if _falls(hospitals.name) else -1
    return {"rate": min(tried, key=lambda rate: sign * tried[rate])}


def run(hospitals: Federation, strategy: str, options: dict[str, float], seed: int) -> Outcome:
    """One strategy from one seed."""
    name, setting = hospitals.name, SETTINGS[hospitals.name]
    study, curve = _curve(hospitals, strategy, options, seed, "test")
    reached = [
        k for k, v in enumerate(curve, 1) if (v <= setting.target if _falls(name) else v >= setting.target)
    ]
    size = 8 * params_for(study, RoundKind.TRAIN, len(hospitals.sites)).words / 1e6
    found = Outcome(name, strategy, seed, options, curve, reached[0] if reached else None, size)
    print(f"{found} final {found.final:.4f}", file=sys.stderr, flush=True)
    return found


def _falls(name: str) -> bool:
    """Whether a smaller figure is the better one."""
    return not TASKS[SETTINGS[name].options["task"]].higher_is_better


def study_of(name: str, strategy: str, options: dict[str, float], seed: int = 0) -> tuple[Study, bytes]:
    """As ``medveil study new`` writes it."""
    wanted = SETTINGS[name].options | {"strategy": strategy, "strategy_options": options}
    study, initial = new_study(
        StudyOptions(name="strategies", privacy="none", seed=seed, weights="equal", **wanted)
    )
    server = strategy_of(study)
    training = study.training.model_copy(update=SETTINGS[name].training | {"schedule": "constant"})
    if isinstance(server, Demanding):
        training = server.suited(training)
    return study.model_copy(update={"training": training}), initial


def _curve(
    hospitals: Federation, strategy: str, options: dict[str, float], seed: int, split: Split
) -> tuple[Study, list[float]]:
    study, initial = study_of(hospitals.name, strategy, options, seed)
    vector = from_safetensors(initial, study.model.tensors)
    trained = run_federated(study, vector, hospitals.sites, watched=split, caches=hospitals.caches)
    return study, [figures[SETTINGS[hospitals.name].figure] for figures in trained.curve]


def section(name: str, found: Sequence[Sequence[Outcome]]) -> list[str]:
    """One setting's part of the page of results."""
    setting, seeds = SETTINGS[name], len(found[0])
    lines = [
        f"## Strategies: {setting.what}",
        "",
        f'Written by `tests/benchmarks/strategies.py --data FOLDER --only "{name}" --seeds {seeds}',
        "--write docs/results.md`.",
        f"Machine: {cpu()}, no GPU, one thread.",
        "",
        "Without noise, every hospital counting alike, the same plain local steps for all (`fedsgd`: one),",
        f"{seeds} seed(s). An adaptive strategy's rate is the best of three on the validation patients of",
        f"these sites. The figure is {setting.figure} on the test patients of all sites together, the target",
        f"{setting.target:g}. *Sent*: what one hospital uploads until then, masked. Best round and end: mean",
        "of the seeds; rounds to the target: of each.",
        "",
        "| strategy | rounds to the target | sent | best round | final | smallest–largest |",
        "|---|---|---|---|---|---|",
    ]
    return [*lines, *(_line(name, several) for several in found)]


def _line(name: str, several: Sequence[Outcome]) -> str:
    """One strategy's line of the table."""
    one, ends = several[0], [each.final for each in several]
    rate = "".join(f", {k} {v:g}" for k, v in one.options.items())
    reached = [each.reached for each in several]
    rounds = ", ".join("not reached" if r is None else str(r) for r in reached)
    rounds = "not reached" if not any(reached) else rounds
    known = [r for r in reached if r is not None]
    sent = f"{1000 * statistics.mean(known) * one.upload_mb:.3g} kB" if len(known) == len(reached) else ""
    best = statistics.mean((min if _falls(name) else max)(each.curve) for each in several)
    mean = f"**{statistics.mean(ends):.3f}** | {min(ends):.3f}–{max(ends):.3f}"
    return f"| {one.strategy}{rate} | {rounds} of {len(one.curve)} | {sent} | {best:.3f} | {mean} |"


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="settings, separated by commas; all without it")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each strategy")
    parser.add_argument("--keep", type=Path, help="keep finished runs in this folder, and go on with them")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.only.split(",") if given.only else SETTINGS:
        sites = SETTINGS[name].read(given.data, study_of(name, "fedavg", {})[0])
        hospitals = Federation(name, sites, [FeatureCache() for _ in sites])
        found = [runs(hospitals, strategy, given.seeds, given.keep) for strategy in STRATEGIES]
        rows += [
            Row(f"{name}: {several[0].strategy}", statistics.mean(one.final for one in several), "")
            for several in found
        ]
        if given.write is not None:
            put_section(given.write, f"strategies, {name}", "\n".join(section(name, found)))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
