"""A fresh Debian in a folder: Python, make and git, and nothing else. Commands are typed there as root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from containers import ROOT, make_debian, pips_settings
from revisions import export

INSTALL = "mmdebstrap is needed, and root: apt-get install mmdebstrap"
THERE = "python3,python3-venv,make,git,ca-certificates"
HOME = "/root/medveil"
"""Where the repository lies inside."""


def available() -> bool:
    """Whether one can be made here."""
    return shutil.which("mmdebstrap") is not None and os.geteuid() == 0 and (ROOT / ".git").exists()


class BareDebian:
    """One machine: files stay from command to command, processes end with their command."""

    def __init__(self, root: Path, bound: list[str]) -> None:
        self.root = root
        self._bound = bound

    def words(self, script: str) -> list[str]:
        """The command line that runs a shell script inside, from the repository's folder."""
        binds = [f"mount --bind {one} {self.root}{one}" for one in self._bound]
        inside = f"cd {HOME} && {script}"
        whole = " && ".join(
            [*binds, f"exec chroot {self.root} /usr/bin/env -i {_environment()} sh -ec {quote(inside)}"]
        )
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc",
                "sh", "-ec", whole]  # fmt: skip

    def types(self, script: str, limit_s: float = 1500) -> str:
        """What a shell script prints; all of it is the message if it fails."""
        done = subprocess.run(
            self.words(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-6000:]}"
        return done.stdout


@contextmanager
def bare_debian(root: Path) -> Iterator[BareDebian]:
    """A machine with this repository's last commit in :data:`HOME`, and with our settings of pip."""
    make_debian(root, THERE)
    text, bound = pips_settings()
    (root / "etc" / "pip.conf").write_text(text)
    export("HEAD", root / HOME.lstrip("/"))
    (root / "dev" / "null").unlink(missing_ok=True)
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        place = root / "dev" / name
        if not place.exists():
            os.mknod(place, 0o20666, os.makedev(1, minor))
            place.chmod(0o666)
    for one in bound:
        place = Path(f"{root}{one}")
        (place if Path(one).is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.touch()
    try:
        yield BareDebian(root, bound)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _environment() -> str:
    return "HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
