"""The dashboard: how soon a page is there, and what a hundred open ones cost. Needs chromium.

python tests/benchmarks/dashboard.py                        # prints the figures
python tests/benchmarks/dashboard.py --write docs/admin.md  # puts them into its section
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from browser import browser
from made_board import PLAN, ServedBoard, served, watching
from results_page import put_section

LOADS, WATCH_S, WATCHERS = 5, 40.0, 100
PAGES = {
    "overview": "/",
    "study": f"/studies/{PLAN}",
    "rounds": f"/studies/{PLAN}/rounds",
    "round": f"/studies/{PLAN}/rounds/7",
    "hospitals": "/hospitals",
    "enrolment": "/enrolment",
}
PAINT = """() => new Promise(done => new PerformanceObserver(seen => {
  const first = seen.getEntriesByName("first-contentful-paint")[0];
  if (first) done(first.startTime);
}).observe({type: "paint", buffered: true}))"""


def paints(chromium: Any, board: ServedBoard) -> dict[str, tuple[float, float]]:
    """Page → milliseconds to its first words (median), and milliseconds of CPU that making it took (most)."""
    found = {}
    for name, path in PAGES.items():
        times, cpu = [], []
        for _ in range(LOADS):
            board.wrote()  # or the page of the load before would be shown again
            spent = board.app.state.board.spent_s
            window = chromium.new_context().new_page()
            window.goto(board.url + path)
            times.append(float(window.evaluate(PAINT)))
            window.context.close()
            cpu.append(1000 * (board.app.state.board.spent_s - spent))
        found[name] = statistics.median(times), max(cpu)
    return found


async def watch(board: ServedBoard, paths: list[str]) -> int:
    """Hold streams open for a while, as browsers do; the bytes that came."""

    async def one(path: str) -> int:
        port = int(board.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n".encode())
        size = 0
        try:
            async with asyncio.timeout(WATCH_S):
                while data := await reader.read(1 << 20):
                    size += len(data)
        except TimeoutError:
            writer.close()
        return size

    return sum(await asyncio.gather(*(one(path) for path in paths)))


def share(board: ServedBoard, paths: list[str], every_s: float) -> tuple[float, float]:
    """CPU of this process while streams are open and somebody writes to the database again and again.

    Returns: as a share of a core, the readers' own work and the writers' taken off; bytes a second each.
    """

    async def both() -> int:
        async def write() -> None:
            turn = 0
            while True:
                await asyncio.sleep(every_s)
                turn += 1
                line = board.watching.timeline_
                lanes = tuple(
                    lane.model_copy(
                        update={"last_heard": lane.last_heard + turn if lane.last_heard else None}
                    )
                    for lane in line.lanes
                )
                board.watching.timeline_ = line.model_copy(update={"lanes": lanes})
                board.wrote()

        writer = asyncio.ensure_future(write())
        try:
            return await watch(board, paths)
        finally:
            writer.cancel()

    before, mine, began = time.process_time(), time.thread_time(), time.monotonic()
    size = asyncio.run(both())
    took = time.monotonic() - began
    spent = time.process_time() - before - (time.thread_time() - mine)  # this thread reads, the others serve
    return spent / took, size / took / len(paths)


def live(path: str) -> str:
    """The stream of a page."""
    return "/overview.live" if path == "/" else f"{path}.live"


def figures(folder: Path) -> list[str]:
    """The section of the page."""
    lines = [
        "| page | first words, 1 hospital | 50 hospitals | CPU to make it, 50 hospitals |",
        "|---|---|---|---|",
    ]
    with browser() as chromium:
        rows: dict[int, dict[str, tuple[float, float]]] = {}
        for hospitals in (1, 50):
            made = watching(hospitals, 2, time.time())
            made.ended = 10_000
            with served(folder, made) as board:
                rows[hospitals] = paints(chromium, board)
    for name in PAGES:
        one, many = rows[1][name], rows[50][name]
        lines.append(f"| {name} | {one[0] / 1000:.2f} s | {many[0] / 1000:.2f} s | {many[1]:.0f} ms |")
    lines += [
        "",
        f"{WATCHERS} open pages, {WATCH_S:.0f} s, with a write to the database every half a second:",
        "",
    ]
    lines += ["| open | CPU of a core | bytes a second each |", "|---|---|---|"]
    every = list(PAGES.values())
    for words, paths in (
        ("all on the round of 50 hospitals", [PAGES["round"]] * WATCHERS),
        ("spread over all pages", [every[k % len(every)] for k in range(WATCHERS)]),
    ):
        with served(folder, watching(50, 2, time.time())) as board:
            used, size = share(board, [live(path) for path in paths], 0.5)
        lines.append(f"| {words} | {used:.1%} | {size / 1000:.1f} kB |")
    lines += [
        "",
        f"On {os.cpu_count()} cores; load meanwhile, this run's own included: {os.getloadavg()[0]:.0f}.",
    ]
    return lines


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", type=Path)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = figures(Path(name))
    print("\n".join(lines))
    if asked.write is not None:
        put_section(asked.write, "dashboard", "\n".join(lines))


if __name__ == "__main__":
    main()
