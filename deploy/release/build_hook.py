"""Beside what hatchling does for a wheel or sdist: write its revision down. And for a wheel: compile
``privacy/secagg/kernel.c``, if there is a C compiler.

Without one the wheel is pure Python, and NumPy does the same work (docs/decisions/0060-a-compiled-pass.md).
``MEDVEIL_KERNEL=off`` asks for the pure wheel, ``MEDVEIL_KERNEL=on`` fails where the file cannot be compiled.
The same compiler gives the same bytes. The file uses nothing of Python's, so one serves every version.

For a checkout: ``python deploy/release/build_hook.py privacy/secagg/_kernel.so`` (``make kernel``).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

SOURCE, PLACE = Path("privacy/secagg/kernel.c"), "privacy/secagg/_kernel.so"
FLAGS = (
    "-std=gnu11 -O2 -ftree-vectorize -ffp-contract=off -fno-math-errno -fno-trapping-math "
    "-fPIC -shared -s -fvisibility=hidden -static-libgcc -Wl,--build-id=none"
).split()
"""Each product and sum of the encoding is rounded by itself, as in NumPy: no contraction, no fast-math."""


class NotCompiled(Exception):
    """The file could not be compiled; the words say why."""


def compile_kernel(to: Path, *, root: Path | None = None) -> None:
    """Compile the passes over a vector into a file. Raises: NotCompiled; then there is no file."""
    root = root or Path(__file__).resolve().parents[2]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, *FLAGS, f"-ffile-prefix-map={root}=.", "-o", str(to), str(root / SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotCompiled(f"there is no C compiler '{compiler[0]}' ({error.strerror})") from error
    if done.returncode:
        to.unlink(missing_ok=True)
        raise NotCompiled(f"'{compiler[0]}' failed:\n{done.stderr}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, where hatchling need not be
    BuildHookInterface = object


class Hook(BuildHookInterface):  # type: ignore[misc, valid-type]
    """Puts ``medveil/revision.txt`` into both, and the compiled file into wheels for this kind of Linux."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="medveil-build-")
        self._write_revision(build_data)
        if self.target_name == "wheel":
            self._compile(build_data)

    def _write_revision(self, build_data: dict[str, Any]) -> None:
        """Of sources without history, such as an unpacked sdist, the one that is written there stays."""
        if not (Path(self.root) / ".git").exists():
            return
        ask = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        done = subprocess.run(ask, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            file = Path(self._folder.name) / "revision.txt"
            file.write_text(done.stdout, encoding="ascii")
            inside = "medveil" if self.target_name == "wheel" else "platform/medveil"
            build_data["force_include"][str(file)] = f"{inside}/revision.txt"

    def _compile(self, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("MEDVEIL_KERNEL", "auto")
        if wanted == "off" or (sys.platform != "linux" and wanted != "on"):
            return
        file = Path(self._folder.name) / Path(PLACE).name
        try:
            compile_kernel(file, root=Path(self.root))
        except NotCompiled as problem:
            if wanted == "on":
                raise
            self.app.display_info(f"A pure wheel: {problem}")
            return
        kind = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["force_include"][str(file)] = PLACE
        build_data |= {"pure_python": False, "tag": f"py3-none-{kind}"}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling when the file is there."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


if __name__ == "__main__":
    try:
        compile_kernel(Path(sys.argv[1]))
    except NotCompiled as problem:
        sys.exit(f"Not compiled: {problem}\nNothing is lost but time: NumPy does the same work.")
