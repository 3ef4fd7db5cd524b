"""Build our images and play a study of three hospitals with them: python tests/deploy/play.py [--store DIR]

As root, with buildah and mmdebstrap (apt-get install buildah mmdebstrap). About half an hour on two busy
cores and 10 GB of disk. --store keeps the images for the next time, and for the test beside this file
(MEDVEIL_IMAGES_STORE=DIR).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from contained import AGGREGATOR, NODE, Played
from containers import INSTALL, Engine, available


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--store", type=Path, help="Where images are kept; built if they are not there.")
    arguments.add_argument("--rounds", type=int, default=2)
    store = arguments.parse_args().store
    if not available():
        sys.stderr.write(INSTALL + "\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="medveil-boxes-") as name:
        engine = Engine(store or Path(name) / "images")
        try:
            for file, image in (("Containerfile.aggregator", AGGREGATOR), ("Containerfile.node", NODE)):
                if not engine.has(image):
                    _said(f"build {image}", lambda file=file, image=image: engine.build(file, image))
            sys.stdout.write(engine.call("images") + "\n")
            with Played(engine, Path(name) / "boxes") as played:
                _said("set up", played.set_up)
                _said("open", lambda: played.open(arguments.parse_args().rounds))
                _said("study to its report", played.report)
        finally:
            engine.end() if store else engine.remove()
    return 0


def _said(what: str, work: object) -> None:
    began = time.monotonic()
    work()  # type: ignore[operator]
    sys.stdout.write(f"{what}: {time.monotonic() - began:.0f} s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
