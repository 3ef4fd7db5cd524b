"""Several sequences of one patient → one volume with a channel for each, on the grid of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medveil_imaging.sources.grids import resampled, same_grid, turned
from medveil_imaging.sources.raw import Float32, Note, Unusable, Volume

SHARED = 0.5
"""Smallest share of the first channel's field of view that another must cover."""
COVERED = 0.95
"""Share below which somebody should know that a part of a channel is empty."""
UNPLACED = "no-orientation"
"""Code of the note that a volume's header does not say where it lies."""


def split_channels(volume: Volume, names: Sequence[str]) -> Volume:
    """A file that holds all channels, in the order of the study's names: (channels, i, j, k).

    Raises:
        Unusable: it holds another number of volumes than the study names channels.
    """
    voxels = volume.voxels if volume.voxels.ndim == 4 else volume.voxels[None]
    if len(voxels) != len(names):
        raise Unusable(
            "channel-count",
            f"The file holds {len(voxels)} volumes, and the study names {len(names)} channels.",
            f"Write one file with the volumes {', '.join(names)}, in this order.",
        )
    return replace(volume, voxels=voxels)


def joined_channels(volumes: Sequence[Volume], names: Sequence[str]) -> Volume:
    """Volumes of one patient, one a channel, on the grid of the first: (channels, i, j, k).

    Channels on the same grid are taken as they are, whatever their order of storage; the others are
    resampled, linearly, by what their headers say of their place. Outside of its field of view a channel has
    its lowest value.

    Raises:
        Unusable: a channel has several volumes, lies elsewhere or nobody knows where, or is of another
            patient.
    """
    first = volumes[0]
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    if len({volume.patient_mark for volume in volumes} - {None}) > 1:
        raise Unusable(
            "several-patients", "The channels name different patients.", "List the files of one patient."
        )
    layers = []
    for name, volume in zip(names, volumes, strict=True):
        if volume.voxels.ndim != 3:
            raise Unusable(
                "wrong-dimensions",
                f"The file of channel {name} holds several volumes.",
                "Give one volume a channel.",
            )
        layer, share = _on_grid(first, volume, name, names[0])
        if share < COVERED:
            cut = Note(
                "channel-cut",
                f"Channel {name} covers only a part of channel {names[0]}; the rest of it is empty.",
                "Check that both show the same part of the patient.",
            )
            notes[cut] = None
        layers.append(layer)
    mark = next((volume.patient_mark for volume in volumes if volume.patient_mark), None)
    return Volume(np.stack(layers), first.affine, tuple(notes), mark)


def _on_grid(first: Volume, volume: Volume, name: str, reference: str) -> tuple[Float32, float]:
    """The channel on the first one's grid, and how much of that grid it covers."""
    placed = [UNPLACED not in {note.code for note in one.notes} for one in (first, volume)]
    if placed[0] == placed[1]:
        same = turned(first, volume)
        if same is not None and same_grid(first, same):
            return same.voxels, 1.0
    if not all(placed):
        raise Unusable(
            "channel-place",
            f"The headers do not say how channel {name} lies to channel {reference}.",
            f"Convert the originals again, or resample channel {name} to channel {reference}.",
        )
    voxels, share = resampled(first, volume)
    if share < SHARED:
        raise Unusable(
            "channel-place",
            f"Channel {name} shows another part of the patient than channel {reference}.",
            f"List sequences of one examination, resampled to channel {reference} if the patient has moved.",
        )
    return voxels, share


def one_volume(volumes: Sequence[Volume], names: Sequence[str]) -> Volume:
    """The volume of one file, or of one for each channel that the study names. Raises: Unusable."""
    if not names:
        return volumes[0]
    return split_channels(volumes[0], names) if len(volumes) < len(names) else joined_channels(volumes, names)
