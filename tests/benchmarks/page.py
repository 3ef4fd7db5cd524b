"""The operator's page: how soon it is there, and what it costs while it lies open. Needs chromium.

python tests/benchmarks/page.py  # the figures of docs/operator.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import browser
from hospital_node import live
from hospitals import make_hospital, plan_of
from node_page import made_node, made_panels, served

LOADS, IDLE_S = 7, 60
MEDVEIL = "from medveil.cli import main; main()"
PAINT = """() => new Promise(done => new PerformanceObserver(seen => {
  const first = seen.getEntriesByName("first-contentful-paint")[0];
  if (first) done(first.startTime);
}).observe({type: "paint", buffered: true}))"""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def paints(chromium: Any, folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds to the first words: of a page with three studies and a request, and of the way in."""
    whole, bare = list[float](), list[float]()
    with served(made_node(folder), made_panels(3)) as page:
        page.page.painter.warm()
        for _ in range(LOADS):
            for kept, address in ((bare, f"{page.url}/sign-in"), (whole, page.link)):
                window = chromium.new_context().new_page()
                window.goto(address)
                kept.append(float(window.evaluate(PAINT)))
                window.context.close()
    return whole, bare


def idle(chromium: Any, folder: Path) -> tuple[float, float]:
    """CPU of the command per second, and its memory in MB, with one browser open and a node that runs."""
    hospital = make_hospital(folder)
    hospital.approve(plan_of())
    board = live.Board(hospital.node)
    board.change(connected=True)
    command = [sys.executable, "-c", MEDVEIL, "node", "page", "--folder", str(hospital.node.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = next(line.strip() for line in process.stdout if "/enter/" in line)
        window = chromium.new_context().new_page()
        window.goto(link)
        board.write()
        time.sleep(15)  # the first look at everything, and the aggregator that does not answer
        before, began = cpu_seconds(process.pid), time.monotonic()
        while time.monotonic() - began < IDLE_S:
            board.write()  # as a running node does
            time.sleep(live.HEARTBEAT_S)
        share = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
        memory = resident_mb(process.pid)
        process.terminate()
    return share, memory


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
        print(f"load average {os.getloadavg()[0]:.1f}")
        for words, kept in zip(("the page", "the way in"), paints(chromium, Path(name)), strict=True):
            print(f"{words}: first paint after {statistics.median(kept):.0f} ms, at most {max(kept):.0f} ms")
        share, memory = idle(chromium, Path(name) / "hospital")
        print(f"idle with a browser open, {IDLE_S} s: {share:.2%} of a core, {memory:.0f} MB")


if __name__ == "__main__":
    main()
