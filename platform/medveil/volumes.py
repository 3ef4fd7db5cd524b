"""In a container state lies on a volume; without one it would be gone with the container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medveil.errors import Error
from medveil.private_files import keep_private
from medveil.shown import plain

VARIABLE = "MEDVEIL_VOLUME"
"""Set in our images: the folder that must be a volume. Where it is not set, nothing is asked."""
MOUNTS = Path("/proc/self/mountinfo")
OCTAL = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


class NoVolume(Error):
    """A container's folder for state is not a volume, or is not this user's to write."""

    code = "no-volume"

    def __init__(self, *, folder: str, problem: str) -> None:
        super().__init__(
            what=f"'{plain(folder, 80)}' {problem}.",
            meaning="Keys and records would be gone with the container, so nothing was read or written.",
            remedy=f"Run it with a volume that is this user's: -v NAME:{plain(folder, 80)} (podman, docker), "
            "or volumeMounts with fsGroup (Kubernetes).",
        )


def begin_on_volume() -> None:
    """What a command of aggregator or node begins with: what it writes is private, and stays.

    Raises: NoVolume.
    """
    keep_private()
    folder = os.environ.get(VARIABLE)
    if folder and not {"-h", "--help"} & set(sys.argv):
        check_volume(Path(folder), MOUNTS)


def check_volume(folder: Path, mounts: Path) -> None:
    """Refuse a folder that is no mount point, or in which this user may not write.

    Args: mounts: the process's mounts as Linux tells them (proc(5), mountinfo); a bind mount of the same file
        system is one too, so comparing device numbers would not do.
    Raises: NoVolume.
    """
    if str(folder) not in _mount_points(mounts):
        raise NoVolume(folder=str(folder), problem="is not a volume")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise NoVolume(folder=str(folder), problem=f"is a volume in which user {os.getuid()} may not write")


def _mount_points(mounts: Path) -> set[str]:
    found = set()
    for line in mounts.read_text(errors="replace").splitlines():
        words = line.split(" ")
        point = words[4] if len(words) > 4 else ""
        for written, meant in OCTAL:
            point = point.replace(written, meant)
        found.add(point)
    return found
