"""Weights to start from: a published model, a MONAI Bundle or a single file. Nothing in it is ever executed.

A bundle is a folder or a zip with ``configs/metadata.json`` and ``models/``. Of its configuration name and
version are read, as JSON; ``_target_`` and ``$`` expressions elsewhere are programs, and stay closed. Weights
are safetensors, or a PyTorch file of tensors alone, read by torch's restricted unpickler; TorchScript
is a program.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from medveil.errors import BadFile, Error
from medveil.shown import plain
from medveil.tensors import BadModelFile
from medveil_imaging.published import Published, is_published, read_published

MAX_BYTES = 2 * 2**30
METADATA = "configs/metadata.json"
MAX_METADATA = 2**20
MOST_FILES = 10_000
USUAL = ("models/model.safetensors", "models/model.pt")
READABLE = (".safetensors", ".pt", ".pth", ".ckpt")
PROGRAMS = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe")
SCRIPTED = (".ts", ".torchscript")
WRAPPERS = ("state_dict", "model", "net", "network")
"""What training programs call the weights among other things that they keep."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
"""Tensors of a checkpoint that are no weights: what batch norm remembers, and tables."""


class BadStartWeights(Error):
    """Weights to start from were refused: damaged, a program, or for another network."""

    code = "bad-start-weights"

    def __init__(self, *, name: str, problem: str, remedy: str = "") -> None:
        super().__init__(
            what=f"The start weights '{name}' were refused: {problem}.",
            meaning="No study was written, and nothing in the file was executed.",
            remedy=remedy
            or "Give a safetensors file, or a PyTorch file that holds a state dict and nothing else.",
        )


@dataclass(frozen=True)
class WeightFile:
    """What was found, not yet held against a network."""

    name: str
    """For people: the bundle with its version, or the file."""
    tensors: Mapping[str, torch.Tensor]
    unread: tuple[str, ...] = ()
    """Other weights in the bundle, that were left alone."""
    published: Published | None = None
    """If a study has made them."""


@dataclass(frozen=True)
class Fit:
    """What became of each tensor, by name."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    """In the file, and not used; without what batch norm remembers."""
    fresh: tuple[str, ...]
    """Of the network, and not in the file: they begin as in a new network."""


def read_weights(path: Path) -> WeightFile:
    """Read a published model's folder, a bundle (folder or zip), or a single file of weights.

    Raises:
        BadStartWeights: no such file, another kind of file, too large, damaged, or a program.
    """
    shown = plain(path.name, 80)
    try:
        if is_published(path):
            return _of_a_study(shown, path)
        if path.is_dir():
            return _bundle(shown, _folder(path))
        if not path.is_file():
            raise BadStartWeights(
                name=shown, problem="there is no such file or folder", remedy="Check the path."
            )
        if path.stat().st_size > MAX_BYTES:
            raise BadStartWeights(name=shown, problem="it is larger than 2 GB")
        data = path.read_bytes()
        archive = _archive(shown, data)
        if archive is not None:
            return _bundle(shown, archive)
        return WeightFile(shown, _tensors(shown, data))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadStartWeights(name=shown, problem=f"it cannot be read ({type(error).__name__})") from error


def _of_a_study(shown: str, path: Path) -> WeightFile:
    try:
        tensors, published = read_published(path)
    except (BadFile, BadModelFile, ValueError) as error:
        problem = error.what.rstrip(".") if isinstance(error, Error) else str(error)
        raise BadStartWeights(name=shown, problem=problem, remedy="Fetch the model once more.") from error
    return WeightFile(shown, tensors, published=published)


Files = Mapping[str, Callable[[], bytes]]
"""Name within the bundle → its content, read when asked for."""


def _folder(path: Path) -> Files:
    found: dict[str, Callable[[], bytes]] = {}
    for place in sorted(path.rglob("*")):
        if place.is_file():  # also where a cache of downloads keeps links to its files
            found[place.relative_to(path).as_posix()] = _reader(place)
        if len(found) > MOST_FILES:
            raise BadStartWeights(name=plain(path.name, 80), problem="it is a folder of too many files")
    return found


def _reader(place: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        if place.stat().st_size > MAX_BYTES:
            raise BadStartWeights(name=plain(place.name, 80), problem="it is larger than 2 GB")
        return place.read_bytes()

    return read


def _archive(shown: str, data: bytes) -> Files | None:
    """The files of a zipped bundle, without the folder around them; None if it is no bundle."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    roots = sorted((n.removesuffix(METADATA) for n in names if n.endswith(METADATA)), key=len)
    roots = [root for root in roots if root == "" or root.endswith("/")]
    if not roots:
        return None
    if len(names) > MOST_FILES or sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
        raise BadStartWeights(name=shown, problem="unpacked it is larger than 2 GB, or of too many files")
    return {n.removeprefix(roots[0]): _member(archive, n) for n in names if n.startswith(roots[0])}


def _member(archive: zipfile.ZipFile, name: str) -> Callable[[], bytes]:
    return lambda: archive.read(name)


def _bundle(shown: str, files: Files) -> WeightFile:
    if METADATA not in files:
        raise BadStartWeights(name=shown, problem=f"it is no MONAI Bundle: it has no {METADATA}")
    programs = sorted(name for name in files if name.lower().endswith(PROGRAMS))
    if programs:
        raise BadStartWeights(
            name=shown,
            problem=f"it carries code ({plain(', '.join(programs[:3]), 120)})",
            remedy="Give the file with the weights alone, from its folder 'models'.",
        )
    inside = sorted(name for name in files if name.startswith("models/"))
    readable = [name for name in inside if name.lower().endswith(READABLE)]
    usual = [name for name in USUAL if name in readable]
    if not usual and len(readable) != 1:
        scripted = any(name.lower().endswith(SCRIPTED) for name in inside)
        problem = (
            "its weights are TorchScript, which is a program" if scripted else "it has no weights in 'models'"
        )
        if readable:
            problem = f"it has several files of weights ({plain(', '.join(readable[:4]), 120)})"
        raise BadStartWeights(name=shown, problem=problem, remedy="Give the file with the weights alone.")
    chosen = (usual or readable)[0]
    unread = tuple(n for n in inside if n != chosen and n.lower().endswith((*READABLE, *SCRIPTED)))
    name = plain(f"{shown}: {_said(shown, files[METADATA]())}", 160)
    return WeightFile(name, _tensors(f"{shown}/{plain(chosen, 80)}", files[chosen]()), unread)


def _said(shown: str, data: bytes) -> str:
    """Name and version from a bundle's metadata, which is read as JSON and as nothing else."""
    try:
        if len(data) > MAX_METADATA:
            raise ValueError("too long")
        metadata: Any = json.loads(data)
        return f"{metadata.get('name', 'a bundle')} {metadata.get('version', '')}".strip()
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadStartWeights(name=shown, problem=f"its {METADATA} is not JSON of a bundle") from error


def _tensors(shown: str, data: bytes) -> Mapping[str, torch.Tensor]:
    """Raises: BadStartWeights."""
    found = _loaded(shown, data)
    for name, value in found.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise BadStartWeights(name=shown, problem=f"'{plain(name, 80)}' is no plain array of numbers")
    if not found:
        raise BadStartWeights(name=shown, problem="it is empty")
    return found


def _loaded(shown: str, data: bytes) -> Mapping[str, torch.Tensor]:
    if zipfile.is_zipfile(io.BytesIO(data)):
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
        if any(m.filename.endswith("constants.pkl") or "/code/" in f"/{m.filename}" for m in members):
            raise BadStartWeights(name=shown, problem="it is TorchScript, which is a program")
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise BadStartWeights(name=shown, problem="unpacked it is larger than 2 GB")
    elif data[8:9] == b"{":
        try:
            tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
            return tensors
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadStartWeights(name=shown, problem="it is not a whole safetensors file") from error
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadStartWeights(
            name=shown, problem="it is no file of tensors alone: it would have code executed, or is damaged"
        ) from error
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise BadStartWeights(name=shown, problem="it is no PyTorch file, or damaged") from error
    return _state(shown, found)


def _state(shown: str, found: object) -> Mapping[str, torch.Tensor]:
    """The tensors by name, taken out of what a training program keeps beside them."""
    inner = [found[key] for key in WRAPPERS if key in found] if isinstance(found, dict) else []
    for candidate in (found, *inner):
        if isinstance(candidate, dict) and all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in candidate.items()
        ):
            whole = all(name.startswith("module.") for name in candidate)  # of DataParallel
            return {name.removeprefix("module.") if whole else name: v for name, v in candidate.items()}
    raise BadStartWeights(name=shown, problem="it holds no tensors by name")


def start_from(network: nn.Module, found: WeightFile, *, partly: bool) -> Fit:
    """Set a network's weights from a file, each held against its name and shape, in place.

    Args: partly: take what fits and leave the rest, as for another head; without it everything must fit.
    Raises:
        BadStartWeights: something does not fit, or nothing does, or a value is not a finite number.
    """
    weights = dict(network.named_parameters())
    fits = {n for n, w in weights.items() if n in found.tensors and found.tensors[n].shape == w.shape}
    fresh = tuple(name for name in weights if name not in fits)
    left = tuple(name for name in found.tensors if name not in fits)
    used = {_place(found.tensors[name]) for name in fits}
    foreign = [
        n for n in left if n.rpartition(".")[2] not in STATISTICS and _place(found.tensors[n]) not in used
    ]
    if not fits or ((fresh or foreign) and not partly):
        raise BadStartWeights(
            name=found.name,
            problem=_misfit(weights, found.tensors, fresh, foreign),
            remedy="Choose the model and options that they belong to"
            + ("." if not fits else ", or take what fits with --partial-start."),
        )
    with torch.no_grad():
        for name in fits:
            value = found.tensors[name].to(torch.float32)
            if not found.tensors[name].is_floating_point() or not bool(value.isfinite().all()):
                problem = f"'{plain(name, 80)}' is not of finite floating point numbers"
                raise BadStartWeights(name=found.name, problem=problem)
            weights[name].copy_(value)
    left = tuple(name for name in left if name.rpartition(".")[2] not in STATISTICS)
    return Fit(tuple(name for name in weights if name in fits), left, fresh)


def _place(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    """Where a tensor lies in memory: one weight under two names lies there once."""
    return tensor.data_ptr(), tensor.shape


def _misfit(
    weights: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
    fresh: tuple[str, ...],
    foreign: list[str],
) -> str:
    said = [
        f"{len(weights) - len(fresh)} of the network's {len(weights)} tensors are in it as they should be"
    ]
    for name in fresh[:2]:
        has = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is not there"
        said.append(f"'{plain(name, 80)}' {has} (wanted: {tuple(weights[name].shape)})")
    strangers = [name for name in foreign if name not in weights]
    said += [f"'{plain(name, 80)}' is unknown to the network" for name in strangers[:2]]
    return "; ".join(said)
