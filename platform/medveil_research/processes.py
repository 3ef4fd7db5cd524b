"""The processes of a consortium on one machine: started, heard, killed on request, always cleaned up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
STOP_S = 8.0


class Process:
    """One ``medveil`` process in a session of its own; its JSON log lines become events.

    Args:
        heard: called with each event, on a thread of this process.
    """

    def __init__(self, name: str, command: list[str], log: Path, heard: Callable[[str, Event], None]) -> None:
        self.name, self._command, self._log, self._heard = name, command, log, heard
        self.killed = False
        self.last_lines: deque[str] = deque(maxlen=12)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "medveil", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._listen, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.killed = True
        self._signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end; kill it if it does not."""
        self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it has ended after :meth:`stop`."""
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._reader.join(STOP_S)
        assert self._process.stdout is not None  # it was opened as a pipe
        self._process.stdout.close()

    def again(self) -> Process:
        """The same command in a new process."""
        return Process(self.name, self._command, self._log, self._heard)

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return

    def _listen(self) -> None:
        assert self._process.stdout is not None  # it was opened as a pipe
        with open(self._log, "a", encoding="utf-8") as file:
            for line in self._process.stdout:
                file.write(line)
                file.flush()
                self.last_lines.append(line.rstrip())
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    self._heard(self.name, event)
