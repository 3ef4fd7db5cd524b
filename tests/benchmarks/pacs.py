"""How fast a node takes in series from a PACS, beside a loop that only downloads them.

A real Orthanc holds 1,000 made slices in ten series. In each repeat the bare loops ask for one series after
the other by WADO-RS and keep nothing; then a node, with a store of its own, looks for the series, fetches,
admits, de-identifies and seals them. All stand in one run, on one machine. ``python tests/benchmarks/pacs.py
--write`` puts the table into docs/pacs.md.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import requests
import structlog
from dicomweb_client import DICOMwebClient

import orthanc
from dicom_files import block, save, slice_header
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dicomweb import DicomWeb
from hospital_node.pacs.fetching import Fetching, Wanted
from hospital_node.pacs.keyed import KeyedNames
from hospital_node.pacs.peer import Pacs, Query, found
from hospital_node.pacs.store import Store
from medveil.identity import Identity, Secret
from rooms import ROOT

SERIES, SLICES, EDGE, REPEATS = 10, 100, 128, 3
BARE = "bare loop of WADO-RS by dicomweb-client"
PAGE = ROOT / "docs" / "pacs.md"
BEGIN, END = "<!-- speed (written by tests/benchmarks/pacs.py) -->", "<!-- end of speed -->"


def instances(folder: Path) -> Iterator[bytes]:
    """Slices with a brain's size and noise, so that they do not pack well."""
    draw = np.random.default_rng(0)
    for series in range(SERIES):
        volume = block(EDGE, EDGE, SLICES) + draw.integers(0, 64, (EDGE, EDGE, SLICES)).astype(np.uint16)
        for number in range(SLICES):
            uid = f"1.2.9.{series}.1"
            header = slice_header(
                volume,
                number,
                StudyInstanceUID=f"1.2.9.{series}",
                SeriesInstanceUID=uid,
                SOPInstanceUID=f"{uid}.{number}",
                PatientID=f"PAT{series:03}",
                AccessionNumber=f"ACC{series:03}",
            )
            yield save(folder / "one.dcm", header).read_bytes()


def bare(server: orthanc.Orthanc, **headers: str) -> Callable[[], int]:
    """A loop that downloads series after series; bytes that came."""

    def run() -> int:
        with requests.Session() as session:
            session.auth = (orthanc.USER, orthanc.PASSWORD)
            session.headers.update({"Accept": 'multipart/related; type="application/dicom"', **headers})
            total = 0
            for series in range(SERIES):
                answer = session.get(f"{server.url}/studies/1.2.9.{series}/series/1.2.9.{series}.1")
                total += len(answer.content)
            return total

    return run


def bare_client(server: orthanc.Orthanc) -> Callable[[], int]:
    """The same loop by dicomweb-client, which hands out data sets; instances that came."""

    def run() -> int:
        with requests.Session() as session:
            session.auth = (orthanc.USER, orthanc.PASSWORD)
            client = DICOMwebClient(server.url, session=session)
            pairs = ((f"1.2.9.{series}", f"1.2.9.{series}.1") for series in range(SERIES))
            return sum(len(client.retrieve_series(*pair)) for pair in pairs)

    return run


def node(pacs: Pacs, folder: Path) -> Callable[[], int]:
    """What ``medveil node pacs fetch`` does, into an empty store each time; instances that came in."""
    identity, secret = Identity.generate("bench"), Secret(bytes(32))

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            store = Store(Path(place), KeyedNames(secret), identity)
            outcome = Fetching(pacs, store, Wanted(), cleaner(store.names)).run()
            assert (outcome.instances, outcome.refusals) == (SERIES * SLICES, [])
            return outcome.instances

    return run


def measured(ways: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    """Seconds of each way; the ways take turns, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def table(seconds: dict[str, list[float]], against: str) -> str:
    best = statistics.median(seconds[against])
    lines = ["| way | instances a second | beside the bare loop |", "|---|---|---|"]
    for name, times in seconds.items():
        middle = statistics.median(times)
        lines.append(f"| {name} | {SERIES * SLICES / middle:,.0f} | {100 * best / middle:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--write", action="store_true", help="put the table into docs/pacs.md")
    chosen = options.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with orthanc.running(folder / "orthanc", instances(folder)) as server:
            login = (orthanc.USER, Secret(orthanc.PASSWORD.encode()))
            web = DicomWeb(server.url, login=login)
            assert len(list(found(web, Query(modality="MR")))) == SERIES
            plain = {"Accept-Encoding": "identity"}
            seconds = measured(
                {
                    BARE: bare_client(server),
                    "bare loop of WADO-RS, bytes only, packed": bare(server),
                    "bare loop of WADO-RS, bytes only, not packed": bare(server, **plain),
                    "node over DICOMweb: found, fetched, admitted, cleaned, sealed": node(web, folder),
                }
            )
    text = table(seconds, BARE)
    print(text)
    if chosen.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
