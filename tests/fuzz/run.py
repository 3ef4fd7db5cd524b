"""Fuzz one door with Atheris: ``python tests/fuzz/run.py aggregator --minutes 10`` (or ``node``).

What is found goes into the folder ``--found``; ``--keep`` copies what is small of it into the kept corpus
and fuzzes nothing. An input that breaks a promise is written there as ``crash-…``; the exit status is then
not 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1], HERE.parents[1] / "platform", HERE.parent / "support"):
    sys.path.insert(0, str(folder))


SMALL = 512


def main() -> None:
    """Run until the minutes are over or a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("door", choices=("aggregator", "node"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--found", type=Path, help="Where new inputs go; a temporary folder if left out.")
    parser.add_argument("--keep", action="store_true", help="Copy what was found before.")
    given = parser.parse_args()
    kept = HERE / "corpus" / given.door
    if given.keep:
        for path in given.found.iterdir():
            if path.stat().st_size <= SMALL:
                (kept / path.name[:16]).write_bytes(path.read_bytes())
        return
    import atheris

    with atheris.instrument_imports(
        include=[
            "medveil",
            "privacy",
            "aggregator.access.signatures",
            "aggregator.web.bodies",
            "aggregator.web.routes",
        ]
    ):
        from fuzzed import DOORS
    found = given.found or Path(tempfile.mkdtemp(prefix="medveil-fuzz-"))
    found.mkdir(parents=True, exist_ok=True)
    options = [
        sys.argv[0],
        str(found),
        str(kept),
        f"-max_total_time={max(1, round(60 * given.minutes))}",
        "-max_len=16384",
        "-timeout=60",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    atheris.Setup(options, DOORS[given.door])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
