"""What a site costs that memory cannot hold, and what it costs to open files in processes of their own.

Films of 64 x 64 are drawn as phantoms (some hundred bodies, each file with noise of its own) and read by the
node's own commands on two cores. Each stage runs in a process of its own; resident memory is that of the
process and all below it, sampled five times a second (pages that they share count for each of them).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.images import read_images
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.identity import Identity
from medveil.shown import Screen
from medveil.study import Study
from medveil_imaging.cache import cache_size
from medveil_imaging.sources.one_row import RowShape
from medveil_imaging.sources.phantom_film import Scanner, draw_film, draw_patient
from medveil_imaging.sources.read import Wanted
from medveil_imaging.sources.readers import Readers, in_this_process
from medveil_imaging.sources.site import read_site
from medveil_imaging.sources.workers import Workers
from rows import Row, arguments, cpu, publish

EDGE, BODIES, OF_A_PATIENT, CORES = 64, 300, 2, 2
SHAPE, CHANNELS = (240, 240, 155), ("flair", "t1", "t1ce", "t2")
PAIRS = 6
"""Turns in which both ways of reading are compared; the first warms up, of the others the median counts."""


def study_of(**changes: Any) -> Study:
    """A study without privacy, one epoch of a small network."""
    import torch  # noqa: F401  # its import is part of every stage

    from medveil_imaging.models import ModelShape, initial_vector, outputs_for

    spec, _ = initial_vector(
        "small_cnn",
        ModelShape((EDGE, EDGE), outputs_for("classification", ("normal", "abnormal")), 1),
        {"width": 8},
        seed=0,
    )
    content = {
        "name": "size",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "small_cnn", "options": {"width": 8}, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": (EDGE, EDGE)},
        "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.05, "batch_images": 64},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 2**17},
    }
    return Study.model_validate(content | changes)


def write_films(folder: Path, count: int) -> None:
    """PNG files and their manifest."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    bodies = [
        draw_film(draw_patient(random), {0} if body % 2 else set(), Scanner(1.0, 0.02, 0.5), random)[0]
        for body in range(BODIES)
    ]
    small = [body.reshape(EDGE, 2, EDGE, 2).mean((1, 3)) for body in bodies]
    lines = ["image,patient_id,split,label"]
    for number in range(count):
        patient, body = number // OF_A_PATIENT, number % BODIES
        noisy = small[body] + 0.02 * random.standard_normal((EDGE, EDGE), np.float32)
        if number % 1000 == 0:
            (folder / str(number // 1000)).mkdir()
        name = f"{number // 1000}/{number}.png"
        Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8)).save(folder / name, compress_level=1)
        split = ("train", "train", "train", "train", "train", "train", "train", "val", "test", "test")
        lines.append(f"{name},P-{patient:06},{split[patient % 10]},{body % 2}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def node_of(folder: Path) -> Node:
    """A hospital's node in a folder with films."""
    settings = NodeSettings(
        name="hospital",
        aggregator="https://here",
        data=folder / "films",
        dataset="films",
        policy=Policy(allow_no_privacy=True),
    )
    node = Node(folder / "node", settings)
    if not node.key.exists():
        node.save()
        Identity.generate("hospital").save(node.key)
    return node


def check(folder: Path) -> dict[str, float]:
    """What ``medveil node check`` does before its table, at the first time or later."""
    begun = time.perf_counter()
    with Screen(stderr=True).waiting():
        read_images(node_of(folder), study_of())
    return {"seconds": time.perf_counter() - begun}


def epochs(folder: Path) -> dict[str, float]:
    """Every image of the site once, from the cache, in an order by chance; then an epoch of training."""
    import torch

    from hospital_node.training import TrainingRound, train
    from medveil_imaging.models import ModelShape, initial_vector, outputs_for

    study = study_of()
    site = read_images(node_of(folder), study)
    people = [*site.train, *site.val, *site.test]
    begun, used, seen = time.perf_counter(), time.process_time(), 0
    for place in np.random.default_rng(0).permutation(len(people)):
        seen += len(people[place].take(range(len(people[place])))[0])
    taken, taken_cpu = time.perf_counter() - begun, time.process_time() - used
    _, vector = initial_vector(
        "small_cnn",
        ModelShape((EDGE, EDGE), outputs_for("classification", ("normal", "abnormal")), 1),
        {"width": 8},
        seed=0,
    )
    begun = time.perf_counter()
    train(
        TrainingRound(
            study,
            vector,
            site.train,
            number=1,
            declared_patients=len(site.train),
            noise=None,
            charge=None,
            device=torch.device("cpu"),
        )
    )
    training = time.perf_counter() - begun
    return {"seconds": taken, "images": seen, "taken_cpu": taken_cpu, "training": training}


def files(folder: Path) -> dict[str, float]:
    """Some of the films once, from their files."""
    some = folder / "some"
    some.mkdir(exist_ok=True)
    lines = (folder / "films" / "manifest.csv").read_text().splitlines()[:10_001]
    (some / "manifest.csv").write_text("\n".join(lines) + "\n")
    for inside in (folder / "films").iterdir():
        if inside.is_dir() and not (some / inside.name).exists():
            shutil.copytree(inside, some / inside.name, copy_function=os.link)
    read_site(some, study_of())  # readers have started, files are in the system's memory
    begun, used, study = time.perf_counter(), cpu_s(), study_of()
    read_site(some, study)
    taken, images = time.perf_counter() - begun, len(lines) - 1
    return {"seconds": taken, "images": images, "taken_cpu": cpu_s() - used}


def volume(folder: Path) -> dict[str, float]:
    """A volume of four channels: read, put into the cache, taken from it."""
    here = folder / "volume"
    here.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["image,label_map,patient_id,split"]
    for number in range(2):
        voxels = random.integers(0, 1000, (*SHAPE, len(CHANNELS)), np.int16)
        labels = (voxels[..., 0] > 900).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), here / f"v{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), here / f"l{number}.nii.gz")
        lines.append(f"v{number}.nii.gz,l{number}.nii.gz,P-{number},train")
    del voxels, labels
    (here / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {}


def take_volume(folder: Path) -> dict[str, float]:
    """See :func:`volume`; in another process, for writing the files takes memory too."""
    transforms = {
        "profile": "mri",
        "size": (64, 64, 64),
        "spacing_mm": (1.0, 1.0, 1.0),
        "channels": CHANNELS,
        "patches": 2,
    }
    study = study_of(task="segmentation", classes=("background", "tumour"), transforms=transforms)
    node = node_of(folder)
    settings = node.settings.model_copy(update={"data": folder / "volume"})
    begun = time.perf_counter()
    site = read_images(Node(node.folder, settings), study)
    read = time.perf_counter() - begun
    assert len(site.train) == 2, site.problems
    begun = time.perf_counter()
    for one in site.train:
        image, label = one.take([0])
        assert image.shape == (1, 4, *SHAPE), image.shape
        del image, label
    return {"seconds": read / 2, "taken": (time.perf_counter() - begun) / 2}


STAGES: dict[str, Callable[[Path], dict[str, float]]] = {
    "check": check,
    "epochs": epochs,
    "files": files,
    "volume": volume,
    "take_volume": take_volume,
}


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Samples of the resident GB of a process and all below it."""
    found, over = [0.0], threading.Event()

    def sample() -> None:
        while not over.wait(0.2):
            found.append(sum(map(resident, tree(pid))) / 1e9)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += tree(int(child))
    return found


def resident(pid: int) -> int:
    """Bytes; 0 if it has ended."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def stage(name: str, folder: Path) -> tuple[dict[str, float], float, str]:
    """What it measured (and the CPU of all its processes), the most it held, what it said to who waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(
        [sys.executable, __file__, "--stage", name, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watched(child.pid) as held:
        out, err = child.communicate()
    if child.returncode:
        raise SystemExit(err)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {**json.loads(out.splitlines()[-1]), "cpu": used}
    print(name, {what: round(value, 2) for what, value in found.items()}, f"{max(held):.2f} GB", flush=True)
    return found, max(held), err


def cpu_s() -> float:
    """Of this process and of all below it."""
    ticks = 0
    for pid in tree(os.getpid()):
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(told[11]) + int(told[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def read_all(readers: Readers, paths: list[Path], study: Study, kind: str) -> None:
    """Read and bring into shape, as for a site; the labels are nobody's."""
    shape = RowShape(study, bytes(32))
    make = shape._film if kind == "film" else shape._volume
    for _, read in readers(paths, lambda path: [Wanted(kind, path)]):  # type: ignore[arg-type]
        make(read[0])  # type: ignore[index,arg-type]


def cost(folder: Path) -> list[Row]:
    """Reading through readers, beside reading in this process: CPU and time, in turns."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    grain = random.integers(0, 12, (2500, 2048))
    for number in range(4):
        large = np.add.outer(np.arange(2500) // 12, np.arange(2048) // 17) + grain + number
        Image.fromarray((large % 2**16 * 90).astype(np.uint16)).save(folder / f"large{number}.png")
        voxels = random.integers(0, 1000, (128, 128, 96), np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"v{number}.nii.gz")
        Image.fromarray(random.integers(0, 255, (EDGE, EDGE), np.uint8)).save(folder / f"small{number}.png")
    mri = {"profile": "mri", "size": (96, 96, 96), "spacing_mm": (1.0, 1.0, 1.0)}
    sizes = (
        ("films of 2048 x 2500, 16 bits", "film", "large{}.png", study_of(), 3),
        ("volumes of 128 x 128 x 96, gzipped", "volume", "v{}.nii.gz", study_of(transforms=mri), 4),
        ("films of 64 x 64", "film", "small{}.png", study_of(), 300),
    )
    rows = []
    with contextlib.closing(Workers(1)) as one, contextlib.closing(Workers(CORES)) as all_cores:
        for what, kind, name, study, times in sizes:
            paths = [folder / name.format(number) for number in range(4)] * times
            ways: list[Readers] = [in_this_process, one, all_cores]
            found = []
            for _ in range(PAIRS):
                found.append([measured(readers, paths, study, kind) for readers in ways])
            used, waited, both = (
                statistics.median(one_turn[way][what_of] / one_turn[0][what_of] for one_turn in found[1:])
                for way, what_of in ((1, 0), (1, 1), (2, 1))
            )
            target = "<= 1.15" if times < 100 else ""
            rows += [
                Row(f"{what}: CPU through one reader, beside in this process", used, "x", target),
                Row(f"{what}: time through one reader", waited, "x"),
                Row(f"{what}: time through {CORES} readers", both, "x", "<= 1.15"),
            ]
    return rows


def measured(readers: Readers, paths: list[Path], study: Study, kind: str) -> tuple[float, float]:
    """CPU of this process and its readers, and time."""
    used, begun = cpu_s(), time.perf_counter()
    read_all(readers, paths, study, kind)
    return cpu_s() - used, time.perf_counter() - begun


def site_rows(folder: Path, count: int) -> list[Row]:
    """A site of films, and a large volume."""
    write_films(folder / "films", count)
    first, held_first, said = stage("check", folder)
    print(said.strip(), flush=True)
    again, _, _ = stage("check", folder)
    epoch, held_epoch, _ = stage("epochs", folder)
    read, _, _ = stage("files", folder)
    from_files, from_cache = read["images"] / read["seconds"], epoch["images"] / epoch["seconds"]
    films = f"{count:,} films"
    cpu_files, cpu_cache = (1e3 * one["taken_cpu"] / one["images"] for one in (read, epoch))
    rows = [
        Row(f"{films}: node check, the first", count / first["seconds"], "films/s", ">= 200"),
        Row(f"{films}: CPU of it, all processes and their start", 1e3 * first["cpu"] / count, "ms/film"),
        Row(f"{films}: resident in it", held_first, "GB", "<= 1.5"),
        Row(f"{films}: node check, again", count / again["seconds"], "films/s"),
        Row(f"{films}: from their files", from_files, "films/s"),
        Row(f"{films}: from the cache", from_cache, "films/s"),
        Row(f"{films}: from the cache by one thread, beside {CORES} readers", from_cache / from_files, "x"),
        Row(f"{films}: CPU of an image from its file", cpu_files, "ms"),
        Row(f"{films}: CPU of an image from the cache", cpu_cache, "ms"),
        Row(f"{films}: the second epoch beside the first, in CPU", cpu_files / cpu_cache, "x", ">= 10"),
        Row(f"{films}: an epoch of training, a small network", epoch["training"], "s"),
        Row(f"{films}: resident in it", held_epoch, "GB", "<= 1.5"),
        Row(f"{films}: size of the cache", cache_size(folder / "node" / "images") / 1e9, "GB"),
    ]
    stage("volume", folder)
    took, held, _ = stage("take_volume", folder)
    name = "240 x 240 x 155 x 4"
    return [
        *rows,
        Row(f"{name}: read and put into the cache", took["seconds"], "s"),
        Row(f"{name}: taken from the cache", took["taken"], "s"),
        Row(f"{name}: resident in it", held, "GB", "<= 3"),
    ]


def page(rows: list[Row], load: float) -> str:
    """Markdown."""
    met = [("yes" if row.ok else "**no**") if row.target else "" for row in rows]
    lines = [
        f"| {row.name} | {row.value:.4g} {row.unit} | {row.target} | {word} |"
        for row, word in zip(rows, met, strict=True)
    ]
    return "\n".join(
        [
            "# Size: a site that memory cannot hold\n",
            "Written by `python tests/benchmarks/size.py --films N --write docs/size-benchmarks.md`. "
            f"Machine: {cpu()}, {CORES} cores, load {load:.1f} at the start (with more than {CORES}, others "
            "have used these cores too).\n",
            *(str(__doc__).strip().splitlines()[2:]),
            "",
            "| what | measured | wanted | met |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Make the files, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--stage", nargs=2, metavar=("NAME", "FOLDER"), help="one process's part")
    parser.add_argument("--films", type=int, default=20_000, help="fewer than 16,000 fit into memory")
    parser.add_argument("--write", type=Path, help="also write a page of it")
    parser.add_argument("--only", choices=("site", "cost"))
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if given.stage:
        found = STAGES[given.stage[0]](Path(given.stage[1]))
        print("\n" + json.dumps(found))
        return
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "site":
            rows += cost(Path(folder) / "cost")
        if given.only != "cost":
            rows += site_rows(Path(folder), given.films)
    publish(rows, given.json)
    if given.write is not None:
        given.write.write_text(page(rows, load), encoding="utf-8")


if __name__ == "__main__":
    main()
