"""Three hospitals and an aggregator in containers of our images, set up and run by commands alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from containers import ROOT, UID, Engine
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.ports import free_port
from processes_watched import family

AGGREGATOR, NODE = "localhost/medveil-aggregator", "localhost/medveil-node"
HEALTHY = ["python3", "/opt/medveil/healthy.py"]
UP_S, PLAYED_S = 180.0, 1500.0


class Container:
    """One container: its volume, which is a folder here, and the process that runs in it."""

    def __init__(self, engine: Engine, image: str, folder: Path, mounts: Sequence[str] = ()) -> None:
        self.engine, self.folder, self.name = engine, folder, engine.container(image)
        passing = folder.with_name(f"{folder.name}.tmp")
        for one in (folder, passing):
            one.mkdir(mode=0o700, parents=True)
            os.chown(one, UID, UID)
        self.mounts = [f"{folder}:/state", f"{passing}:/tmp", *mounts]
        self._process: subprocess.Popen[bytes] | None = None

    def does(self, *words: str, expected: int | None = 0, mounts: Sequence[str] | None = None) -> str:
        """What a command in it prints; ``expected`` is its exit status."""
        command = self.engine.command(self.name, words, self.mounts if mounts is None else mounts)
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False
        )
        said = done.stdout + done.stderr
        assert expected is None or done.returncode == expected, (
            f"{' '.join(words)}: {done.returncode}\n{said}"
        )
        return said

    def start(self, *words: str) -> None:
        """Run its service; the log goes to a file beside the volume."""
        with open(f"{self.folder}.log", "ab") as log:
            self._process = subprocess.Popen(
                self.engine.command(self.name, words, self.mounts),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """The end of what its service has said."""
        return Path(f"{self.folder}.log").read_text(errors="replace")[-4000:]

    def wait_until_well(self, kind: str) -> None:
        """Until the image's own health check passes."""
        deadline = time.monotonic() + UP_S
        while said := self.does(*HEALTHY, kind, expected=None):
            assert self._process is not None, "it was not started"
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, said + self.log
            time.sleep(1)

    def stop(self) -> None:
        """As an engine stops a container: the process in it is asked, not buildah around it."""
        if self._process is None:
            return
        for pid in _inside(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def written(self) -> set[str]:
        """Files of its user in the root file system beside its mounts; there should be none."""
        root = Path(self.engine.call("mount", self.name))
        found = {path.relative_to(root) for path in root.rglob("*") if path.lstat().st_uid == UID}
        return {str(path) for path in found if path.parts[0] not in ("tmp", "state")}


class Played:
    """A study of three hospitals, from ``init`` to its report. Leaving the ``with`` block ends everything."""

    def __init__(self, engine: Engine, folder: Path, hospitals: int = 3) -> None:
        self.folder, self.port = folder, free_port()
        write_phantom_sites(folder / "sites", profile="xray", hospitals=hospitals, patients=16)
        for path in [folder / "sites", *(folder / "sites").rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.aggregator = Container(engine, AGGREGATOR, folder / "aggregator")
        self.nodes = {
            site.name: Container(engine, NODE, folder / site.name, [f"{site}:/images:ro"])
            for site in sorted((folder / "sites").iterdir())
            if site.is_dir()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (*self.nodes.values(), self.aggregator):
            one.stop()

    def set_up(self, *, until: str = "") -> None:
        """The aggregator runs, hospitals and researcher are in; ``until="invited"``: none is yet."""
        names = ["--name", "127.0.0.1", "--name", "localhost"]
        self.aggregator.does(
            "medveil",
            "aggregator",
            "init",
            *names,
            "--port",
            str(self.port),
            "--consortium",
            "Three in boxes",
        )
        self.aggregator.start("medveil", "aggregator", "serve")
        self.aggregator.wait_until_well("aggregator")
        for name, node in self.nodes.items():
            self.aggregator.does("medveil", "aggregator", "invite", name)
            _handed(self.aggregator.folder / f"{name}.invitation", node.folder)
            if until != "invited":
                node.does("medveil", "node", "join", f"{name}.invitation", "--data", "/images", "--yes")
        if until:
            return
        token = self.aggregator.does("medveil", "aggregator", "enroll-token", "anna", "--researcher").split()[
            0
        ]
        shutil.copy(self.aggregator.folder / "aggregator-data" / "tls" / "ca.pem", self.folder)
        self.desk("research", "enroll", token, "--name", "anna", "--aggregator", self.address,
                  "--authority", "ca.pem")  # fmt: skip

    def open(self, rounds: int = 2) -> None:
        """A study that every hospital has approved, and every node at work."""
        hospitals = str(len(self.nodes))
        self.desk(
            "study", "new", "--name", "boxes", "--task", "classification", "--profile", "xray",
            "--hospitals", hospitals, "--rounds", str(rounds), "--patients", "16", "--anyway", "-o", "study",
        )  # fmt: skip
        _handed(self.folder / "study", self.aggregator.folder)
        said = self.aggregator.does(
            "medveil", "aggregator", "study", "create", "study/study.toml",
            "--initial", "study/initial.safetensors", "--researcher", "anna",
        )  # fmt: skip
        plan = re.search(r"\b[0-9a-f]{64}\b", said)
        assert plan is not None, said
        for node in self.nodes.values():
            node.does("medveil", "node", "approve")
            node.does("medveil", "node", "approve", plan[0], "--yes")
            node.start("medveil", "node", "run")

    def report(self) -> Path:
        """Follow the study to its end and write its report."""
        try:
            self.desk("research", "watch", "boxes", limit_s=PLAYED_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError("\n\n".join(one.log for one in self.nodes.values())) from error
        self.desk("research", "report", "boxes", "-o", "report.html", "--json", "result.json")
        return self.folder / "report.html"

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def desk(self, *words: str, limit_s: float = 300) -> str:
        """What the researcher's command prints, run on this machine outside of any container."""
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", "medveil", *words], cwd=self.folder, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=limit_s, check=False, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _handed(source: Path, folder: Path) -> None:
    """Copy a file or folder into a volume, for its user."""
    target = folder / source.name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for path in (target, *target.rglob("*")):
        os.chown(path, UID, UID)


def _inside(pid: int) -> list[int]:
    """What buildah's last process in the chroot has started, of all below a process of buildah's."""
    found = []
    for one in family(pid):
        with suppress(OSError):
            if Path(f"/proc/{one}/cmdline").read_bytes().startswith(b"buildah-chroot-exec"):
                found += [child for child in family(one)[1:] if _parent(child) == one]
    return found


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
