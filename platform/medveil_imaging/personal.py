"""Which of a network's weights stay in the hospitals, as a study's author names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from medveil.errors import BadOption
from medveil.shown import plain
from medveil_imaging.models import spec_of

NORM, HEAD = "norm", "head"


def personal_tensors(model: nn.Module, wanted: Sequence[str]) -> tuple[str, ...]:
    """The tensors that are meant, in the network's own order.

    Args:
        wanted: ``norm``: all normalisation layers (FedBN); ``head``: the layer that is last in the network's
            order (FedPer); else a pattern of tensor names with ``*`` and ``?``.
    Raises: BadOption: one of them means no trained tensor.
    """
    names = [tensor.name for tensor in spec_of(model).root]
    found: set[str] = set()
    for word in wanted:
        meant = [name for name in names if name in set(_meant(model, word, names))]
        if not meant:
            listed = ", ".join(plain(name, 60) for name in names[-6:])
            raise BadOption(
                problem=f"--personal: '{plain(word, 60)}' means no trained tensor; the last are {listed}"
            )
        found.update(meant)
    return tuple(name for name in names if name in found)


def _meant(model: nn.Module, word: str, names: Sequence[str]) -> Iterator[str]:
    if word == HEAD:
        layer = names[-1].rpartition(".")[0]
        yield from (name for name in names if name.rpartition(".")[0] == layer)
    elif word == NORM:
        for place, layer in model.named_modules():
            if NORM in type(layer).__name__.lower():
                prefix = f"{place}." if place else ""
                yield from (prefix + name for name, _ in layer.named_parameters(recurse=False))
    else:
        yield from (name for name in names if fnmatchcase(name, word))
