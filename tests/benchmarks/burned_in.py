"""How often writing in films, and faces in volumes, are noticed by the pixels: hits and false alarms.

    python tests/benchmarks/burned_in.py --data FOLDER [--every 4]

FOLDER holds the packs xray-chest, mri-brain and nifti-oddities. Names and numbers are drawn on real films
with PIL: 9 to 25 points on 512 pixels, three typefaces, bright or dark, in a border, anywhere, or on a black
band. The limits of the detector were chosen on films whose place in their folder is even or divisible by 33;
the others are measured. Films as published that are called writing are named, for there is writing in some.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medveil_imaging.sources.faces import shows_face
from medveil_imaging.sources.raw import Volume
from medveil_imaging.sources.read import read_volume
from medveil_imaging.sources.writing import shows_writing

TEXTS = (
    "Ravensbourne Cyril",
    "QUILLFEATHER^OTTOLINE",
    "MRN-7718204",
    "Mbeki-Lindqvist, Tove",
    "12.03.1966",
    "Zzyzx Leopold 4456012",
    "ACC-55103  07.01.2023",
    "Hale Rue",
)
MARKERS = ("L", "R", "AP", "PA")
WHERE = ("border", "anywhere", "band", "dark")
Picture = NDArray[np.uint8]


def drawn(film: Picture, draw: np.random.Generator, *, text: str, where: str, size: int) -> Picture:
    """A film with a text on it, shortened where it does not fit."""
    rows, columns = film.shape
    picture = Image.fromarray(film)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    while len(text) > 4 and pen.textlength(text, font=font) > columns - 6:
        text = text[:-1]
    _, _, width, height = (int(edge) for edge in pen.textbbox((0, 0), text, font=font))
    left = int(draw.integers(2, max(3, columns - width - 2)))
    top = int(draw.integers(2, max(3, rows - height - 2)))
    if where in ("border", "band"):
        depth = int(draw.integers(1, max(2, rows // 12)))
        top = depth if draw.random() < 0.5 else rows - height - depth - 1
    ink = int(draw.integers(0, 30)) if where == "dark" else int(draw.integers(200, 256))
    if where == "band":
        pen.rectangle((0, top - 3, columns, top + height + 3), fill=0)
        ink = 255
    pen.text((left, top), text, fill=ink, font=font)
    return np.array(picture)


def films(folder: Path, every: int) -> list[tuple[str, Path, Picture]]:
    """Real films that the detector was not chosen on."""
    found = []
    for site, step in (("hannover-a", 2), ("guangzhou-a", 2 * every)):
        paths = sorted((folder / "xray-chest" / site / "images").iterdir())
        for path in (paths[k] for k in range(1, len(paths), step) if k % 33):
            found.append((site, path, np.array(Image.open(path).convert("L"))))
    return found


def writing(folder: Path, every: int) -> None:
    draw = np.random.default_rng(20)
    counts: dict[str, Counter[str]] = {}
    seconds, looked, named = 0.0, 0, list[str]()
    for number, (site, path, film) in enumerate(films(folder, every)):
        where, text = WHERE[number % len(WHERE)], TEXTS[int(draw.integers(len(TEXTS)))]
        size = int(draw.integers(9, 26)) if film.shape[1] > 300 else int(draw.integers(8, 17))
        marker = MARKERS[number % len(MARKERS)]
        cases = {
            "films as published": film,
            f"text, {where}": drawn(film, draw, text=text, where=where, size=size),
            "marker of side or view": drawn(film, draw, text=marker, where="border", size=2 * size),
        }
        for case, picture in cases.items():
            begun = time.process_time()
            seen = shows_writing(picture.astype(np.float32))
            seconds, looked = seconds + time.process_time() - begun, looked + 1
            counts.setdefault(f"{site} | {case}", Counter())[str(seen)] += 1
            if seen and picture is film:
                named.append(path.name)
    print("| films | what | looked at | called writing |\n|---|---|---|---|")
    for case, count in sorted(counts.items()):
        print(f"| {case} | {count.total()} | {count['True']} ({100 * count['True'] / count.total():.1f} %) |")
    print(f"\n{1000 * seconds / looked:.0f} ms of a core for one look.")
    print(f"Called writing as published: {', '.join(named)}.\n")


def varied(volume: Volume, draw: np.random.Generator, *, cut: bool) -> Volume:
    """A head held and scanned otherwise; with ``cut`` its face is taken away by a plane."""
    voxels = volume.voxels.copy()
    edge = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if cut:
        y, z = np.meshgrid(*(np.arange(n) for n in voxels.shape[1:]), indexing="ij")
        voxels[
            :, (y * edge[1] > 128 + draw.normal(0, 4)) & (z * edge[2] < 75 + 0.9 * (y * edge[1] - 128))
        ] = 0
    for axes in ((0, 1), (1, 2), (0, 2)):
        voxels = ndimage.rotate(voxels, draw.uniform(-12, 12), axes=axes, reshape=False, order=1)
    voxels = voxels * (1 + 0.3 * draw.uniform(-1, 1) * np.linspace(-1, 1, voxels.shape[2]))
    voxels = voxels + draw.normal(0, 0.02 * np.percentile(voxels, 98), voxels.shape)
    affine = volume.affine.copy()
    affine[:3, :3] *= draw.uniform(0.85, 1.15)
    return Volume(voxels.astype(np.float32), affine)


def faces(folder: Path) -> None:
    draw = np.random.default_rng(3)
    head = read_volume(folder / "nifti-oddities" / "someones_anatomy.nii.gz")
    brains = [p for p in sorted((folder / "mri-brain").rglob("*.nii.gz")) if "label" not in p.as_posix()]
    cases = {
        "a whole head, varied 100 times": [shows_face(varied(head, draw, cut=False)) for _ in range(100)],
        "the same, face cut away": [shows_face(varied(head, draw, cut=True)) for _ in range(100)],
        "brains without skull": [shows_face(read_volume(path)) for path in brains],
    }
    print("| volumes | looked at | called a face |\n|---|---|---|")
    for case, seen in cases.items():
        print(f"| {case} | {len(seen)} | {sum(seen)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4, help="every how manieth film of the large site")
    given = parser.parse_args()
    writing(given.data, given.every)
    faces(given.data)
