"""The seeds' examples: digits by a real consortium on this machine, pictures, films and volumes compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medveil.private_files import private_folder
from medveil.shown import Screen
from medveil_research.compare import compare
from medveil_research.demo import demo
from medveil_research.mnist import write_mnist_sites
from medveil_research.options import CompareOptions, DemoOptions
from medveil_research.seeds.digits import write_digits
from medveil_research.seeds.pictures import KINDS, write_picture_sites

CLIENTS = 5
MNIST = DemoOptions(
    classes=",".join("0123456789"),
    model="lenet",
    size="28x28",
    privacy="none",
    figure="accuracy",
    alone=False,
)

VISION = CompareOptions(
    profile="picture",
    classes=",".join(KINDS),
    model="mobilenet",
    option=["width=0.35"],
    size="224x224",
    rounds=12,
    seeds=1,
    only=["federated", "central"],
    figure="accuracy",
    each_round=True,
)
XRAY = CompareOptions(
    profile="xray",
    model="small_cnn",
    rounds=12,
    seeds=1,
    only=["alone", "federated", "central"],
    figure="accuracy",
    each_round=True,
)
MRI = replace(XRAY, profile="mri", rounds=15, patients=60)


def seed_mnist(data: Path | None, folder: Path) -> None:
    """Federated averaging on digits: five hospitals, ten masked rounds of five passes over HTTPS.

    Args:
        data: has the four IDX files of MNIST; digits drawn by code without it.
    """
    screen, sites = Screen(), folder / "sites"
    if not sites.exists():
        if data is None:
            screen.say("No DATA: digits drawn by code, easier than handwriting; they say nothing of MNIST.")
        write_mnist_sites(data or write_digits(folder / "digits"), sites, hospitals=CLIENTS, by_label=False)
    demo(replace(MNIST, data=sites, made_up=data is None, folder=folder))


def seed_vision(data: Path | None, folder: Path) -> None:
    """MobileNetV2 on colour pictures of 224x224, ten kinds, by Adam: federated against centralised.

    Args:
        data: one folder for each site, with labels 0 to 9; pictures drawn by code without it.
    """
    if data is None and not (folder / "sites").exists():
        Screen().say("No DATA: pictures drawn by code, far easier than photographs.")
        write_picture_sites(folder / "sites")
    compare(replace(VISION, data=data, output=folder))


def seed_xray(data: Path | None, folder: Path) -> None:
    """Films of four hospitals that see other findings through other machines; made-up without data."""
    compare(replace(XRAY, data=data, output=folder))


def seed_mri(data: Path | None, folder: Path) -> None:
    """Volumes of four hospitals with scanners a hundredfold apart; made-up without data."""
    compare(replace(MRI, data=data, output=folder))


SEEDS: dict[str, Callable[[Path | None, Path], None]] = {
    "mnist": seed_mnist,
    "vision": seed_vision,
    "xray": seed_xray,
    "mri": seed_mri,
}


def run_seed(name: str, data: Path | None, output: Path | None) -> None:
    """Play one of the examples."""
    folder = output or Path(".medveil") / f"seed-{name}-{dt.datetime.now():%Y%m%d-%H%M%S}"
    private_folder(folder)
    SEEDS[name](data, folder)
