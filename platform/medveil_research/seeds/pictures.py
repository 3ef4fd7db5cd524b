"""Colour pictures drawn by code: ten kinds of things, for the example of a network for photographs.

A kind has its shape and its usual colour; place, size, turn, light and ground are by chance, and one thing in
ten has another kind's colour. The hospitals see the kinds in unequal shares, each under its own light.
They are far easier than photographs: a figure on them says nothing about any.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medveil_imaging.sources.manifest import MANIFEST

KINDS = ("disc", "square", "triangle", "ring", "cross", "star", "bars", "dots", "crescent", "arch")
EDGE = 224
OTHER_COLOUR = 0.1
SPLITS = (("train", 0.7), ("val", 0.8), ("test", 1.0))
LIGHTS = ((1.0, 1.0, 1.0), (1.0, 0.9, 0.75), (0.8, 0.92, 1.0), (0.9, 1.0, 0.85))
OWN = 3.0
"""How much oftener a hospital sees its own third of the kinds."""


def write_picture_sites(folder: Path, *, hospitals: int = 3, pictures: int = 120, seed: int = 0) -> None:
    """Write ``hospital-1`` … with JPEG files and a manifest each; a picture counts as a patient."""
    for hospital in range(hospitals):
        random = np.random.default_rng([seed, hospital])
        site = folder / f"hospital-{hospital + 1}"
        (site / "images").mkdir(parents=True)
        shares = np.where(np.arange(len(KINDS)) % hospitals == hospital, OWN, 1.0)
        lines = ["image,patient_id,split,label"]
        for number in range(pictures):
            kind = int(random.choice(len(KINDS), p=shares / shares.sum()))
            name = f"picture-{number + 1:04d}"
            image = draw_picture(kind, LIGHTS[hospital % len(LIGHTS)], random)
            Image.fromarray(image).save(site / "images" / f"{name}.jpg", quality=92)
            split = next(s for s, end in SPLITS if number < round(end * pictures))
            lines.append(f"images/{name}.jpg,h{hospital + 1}-{name},{split},{kind}")
        (site / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_picture(kind: int, light: tuple[float, float, float], random: Generator) -> NDArray[np.uint8]:
    """One picture, uint8 (224, 224, 3)."""
    rows, columns = np.mgrid[0:1:224j, 0:1:224j]
    slope = random.normal(0, 40, 2)  # a grey ground: colour belongs to the thing
    ground = (random.uniform(60, 150) + rows * slope[0] + columns * slope[1])[..., None]
    size = random.uniform(0.26, 0.40)
    shape = _shape(kind, size, random.uniform(0.40, 0.60, 2), random.normal(0, 12))
    hue = (random.integers(len(KINDS)) if random.random() < OTHER_COLOUR else kind) / len(KINDS)
    colour = 255 * np.asarray(colorsys.hsv_to_rgb(hue + random.normal(0, 0.015), 0.75, 0.95))
    picture = ground * (1 - shape) + colour * shape
    picture = picture * np.asarray(light) * random.uniform(0.8, 1.1) + random.normal(0, 8, picture.shape)
    found: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return found


def _shape(kind: int, size: float, middle: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    """Where the thing is, 0 to 1, (224, 224, 1)."""
    image = Image.new("L", (EDGE, EDGE))
    pen = ImageDraw.Draw(image)
    y, x = middle * EDGE
    r = size * EDGE
    box = (x - r, y - r, x + r, y + r)
    thick = round(r / 2.6)
    match KINDS[kind]:
        case "disc":
            pen.ellipse(box, fill=255)
        case "square":
            pen.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=255)
        case "triangle":
            pen.regular_polygon((x, y, r), 3, fill=255)
        case "ring":
            pen.ellipse(box, outline=255, width=thick)
        case "cross":
            pen.rectangle((x - r, y - thick / 2, x + r, y + thick / 2), fill=255)
            pen.rectangle((x - thick / 2, y - r, x + thick / 2, y + r), fill=255)
        case "star":
            pen.polygon([(x + d * r * np.sin(k * np.pi / 5), y - d * r * np.cos(k * np.pi / 5))
                         for k in range(10) for d in [1 if k % 2 == 0 else 0.42]], fill=255)  # fmt: skip
        case "bars":
            for k in (-1, 0, 1):
                pen.rectangle(
                    (x - r, y + 0.7 * k * r - thick / 3, x + r, y + 0.7 * k * r + thick / 3), fill=255
                )
        case "dots":
            for dx in (-0.6, 0.6):
                for dy in (-0.6, 0.6):
                    a, b, q = x + dx * r, y + dy * r, 0.36 * r
                    pen.ellipse((a - q, b - q, a + q, b + q), fill=255)
        case "crescent":
            pen.ellipse(box, fill=255)
            pen.ellipse((x - 0.4 * r, y - r, x + 1.6 * r, y + r), fill=0)
        case _:
            pen.arc(box, 180, 360, fill=255, width=thick)
    turned = image.rotate(turn, center=(x, y), resample=Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float64)[..., None] / 255
