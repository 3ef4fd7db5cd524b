"""Our images, built and run for real by buildah: without a daemon, and on a base of Debian's own packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]

INSTALL = "buildah and mmdebstrap are needed, and root: apt-get install buildah mmdebstrap"
BASE = "localhost/medveil-base"
UID = 10001
PIP_SAYS = ("index-url", "extra-index-url", "find-links", "cert", "constraint", "default-timeout", "retries")
"""What of pip's own settings goes along, as a secret that stays in no layer."""
BASE_FILE = """FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def available() -> bool:
    """Whether images can be built and run here."""
    return bool(shutil.which("buildah") and shutil.which("mmdebstrap")) and os.geteuid() == 0


class Engine:
    """A store of images and containers of its own, under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._containers: dict[str, str] = {}
        self._words = [
            "buildah",
            "--storage-driver",
            "vfs",
            "--root",
            f"{folder}/root",
            "--runroot",
            f"{folder}/run",
        ]
        folder.mkdir(parents=True, exist_ok=True)

    def call(self, *words: str, limit_s: float = 3000) -> str:
        """What buildah prints; its whole output is the message if it fails."""
        done = subprocess.run(
            [*self._words, *words],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (
            f"buildah {' '.join(words)}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        )
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image of this name is in the store."""
        return (
            subprocess.run(
                [*self._words, "inspect", "--type", "image", image], capture_output=True, check=False
            ).returncode
            == 0
        )

    def build_base(self) -> None:
        """Debian with its Python, in the place of the base image, which is not fetched."""
        if self.has(BASE):
            return
        with tempfile.TemporaryDirectory() as name:
            here = Path(name)
            make_debian(here / "rootfs.tar", "python3,python3-venv,ca-certificates")
            (here / "Containerfile").write_text(BASE_FILE)
            self.call("bud", "--isolation", "chroot", "--pull-never", "-t", BASE, name)

    def build(self, file: str, image: str, **arguments: str) -> None:
        """Build one of deploy/'s Containerfiles on :data:`BASE`, with this machine's settings of pip."""
        self.build_base()
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
            text, volumes = pips_settings()
            settings.write(text)
            settings.flush()
            options = [f"--build-arg={name}={value}" for name, value in ({"BASE": BASE} | arguments).items()]
            options += [f"--volume={one}:{one}:ro" for one in volumes]
            self.call(
                "bud", "--isolation", "chroot", "--pull-never", "--format", "docker", *options,
                f"--secret=id=pip.conf,src={settings.name}", "-f", f"{ROOT}/deploy/{file}", "-t", image,
                str(ROOT),
            )  # fmt: skip

    def container(self, image: str) -> str:
        """The container of an image; its name. One is enough: only what is mounted in it is written."""
        if image not in self._containers:
            self._containers[image] = self.call("from", "--pull-never", image)
        return self._containers[image]

    def command(
        self, container: str, words: Sequence[str], mounts: Sequence[str] = (), user: str = f"{UID}:{UID}"
    ) -> list[str]:
        """The command line that runs ``words`` as the image's user, with ``SOURCE:TARGET[:ro]`` mounted."""
        volumes = [f"--volume={one}" for one in mounts]
        return [
            *self._words,
            "run",
            "--isolation",
            "chroot",
            "--user",
            user,
            *volumes,
            container,
            "--",
            *words,
        ]

    def end(self) -> None:
        """Remove every container; the images stay."""
        self._containers.clear()
        subprocess.run([*self._words, "rm", "--all"], capture_output=True, check=False)

    def remove(self) -> None:
        """Remove every container and image, and the folder."""
        self.end()
        subprocess.run([*self._words, "rmi", "--all", "--force"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def make_debian(target: Path, packages: str) -> None:
    """A small Debian with these packages, as a new folder, or as an archive by the name's ending."""
    words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", target]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def pips_settings() -> tuple[str, list[str]]:
    """A pip.conf with what pip is told on this machine, and the files and folders here that it names."""
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    values: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in PIP_SAYS:
            values[key] = value.strip("'\"").replace("\\n", " ")
    named = [urlsplit(word).path for value in values.values() for word in value.split()]
    # An index on disk ("simple") names files that lie beside it.
    local = [one.removesuffix("/simple") for one in named if one.startswith("/") and Path(one).exists()]
    rows = [f"{key} = {value}" for key, value in values.items()]
    return "\n".join(["[global]", *rows, ""]), sorted(set(local))
