"""How busy this machine is, as far as Linux and the GPU's own tool tell."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path


class Machine:
    """Looks now and then; a share is that of the time since the look before."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._before = self._ticks()

    def cpu_share(self) -> float | None:
        """Of all cores, 0 to 1; None where it is not told, or no time has passed."""
        before, now = self._before, self._ticks()
        if now[1] == before[1]:
            return None
        self._before = now
        return (now[0] - before[0]) / (now[1] - before[1])

    def memory(self) -> tuple[int, int]:
        """Bytes in use and bytes in all; zeros where it is not told."""
        told: dict[str, int] = {}
        with suppress(OSError, ValueError, IndexError):
            for line in (self._proc / "meminfo").read_text("ascii").splitlines():
                told[line.split(":")[0]] = 1024 * int(line.split()[1])
        whole = told.get("MemTotal", 0)
        return whole - told.get("MemAvailable", whole), whole

    def _ticks(self) -> tuple[int, int]:
        """Busy and all, in ticks since the machine began (proc(5), ``/proc/stat``)."""
        with suppress(OSError, ValueError):
            first = (self._proc / "stat").read_text("ascii").split("\n", 1)[0]
            counts = [int(one) for one in first.split()[1:9]]
            return sum(counts) - counts[3] - counts[4], sum(counts)
        return 0, 0


def gpu() -> tuple[str, float, int, int] | None:
    """Name, share, bytes in use and bytes of the first GPU; None if there is none that tells."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = "--query-gpu=name,utilization.gpu,memory.used,memory.total"
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(
            [tool, asked, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        name, share, used, whole = (one.strip() for one in told.stdout.splitlines()[0].rsplit(",", 3))
        return name, float(share) / 100, int(used) * 2**20, int(whole) * 2**20
    return None
