"""A PACS that answers wrongly costs the series that it spoils: refused, named, recorded; the rest comes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dying_fetcher
from canaries import DATES, NAMES, NUMBERS, found_in, found_under
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dicomweb import DicomWeb, boundary_in, parts
from hospital_node.pacs.fetching import Fetching, Outcome, Wanted
from hospital_node.pacs.lists import read_labels, read_opted_out
from hospital_node.pacs.problems import (
    NotAPacs,
    PacsCertificate,
    PacsLogin,
    PacsUnreachable,
)
from hospital_node.pacs.store import REFUSED, Store, store_of
from hospital_node.settings import Node
from lying_pacs import LyingPacs, certificate, instance, lying, shelved
from medveil.errors import Error
from medveil.identity import Identity, Secret

IDENTITIES = (b"Quillfeather", b"PAT00", b"ACC00", b"SOMEBODY", b"1.2.9.")


@pytest.fixture
def store(node: Node) -> Store:
    Identity.generate("st-marys").save(node.key)
    return store_of(node)


@pytest.fixture
def fetch(store: Store) -> Callable[..., Outcome]:
    def run(pacs: LyingPacs, **wanted: Any) -> Outcome:
        return Fetching(DicomWeb(pacs.url), store, Wanted(**wanted), cleaner(store.names)).run()

    return run


def codes(outcome: Outcome) -> list[str]:
    return [one.problem.code for one in outcome.refusals]


def manifest(store: Store) -> list[list[str]]:
    return [line.split(",") for line in (store.images / "manifest.csv").read_text().splitlines()[1:]]


def everything_on_disk(store: Store) -> bytes:
    """Names and contents of all that lies in the node's folder."""
    found = []
    for folder, _, files in os.walk(store.images.parent.parent):
        for name in files:
            found += [os.path.join(folder, name).encode(), Path(folder, name).read_bytes()]
    return b"\n".join(found)


FAULTS = {  # of a series; two in a row at most are faults of the PACS
    "stops": "pacs-unreachable",
    "stops-quietly": "pacs-unreachable",
    "broken": "pacs-unreachable",
    "html": "not-a-pacs",
    "redirect": "not-a-pacs",
    "another-patient": "pacs-another-patient",
    "another-series": "pacs-another-series",
    "nobody": "pacs-no-patient",
    "not-dicom": "pacs-not-dicom",
    "spoiled": "cut-short",
    "grows": "pacs-series-grew",
}


TRANSIENT = {"pacs-unreachable", "not-a-pacs"}
"""Faults of the PACS, not of the series: there is nothing to record of it."""


def test_a_fault_costs_its_series_and_leaves_no_trace_of_it(
    store: Store, fetch: Callable[..., Outcome]
) -> None:
    shelf = [shelved(1)]
    for number, fault in enumerate(FAULTS, start=1):
        shelf += [shelved(2 * number, 2, fault), shelved(2 * number + 1)]
    good, bad = shelf[::2], shelf[1::2]
    with lying(shelf) as pacs:
        outcome = fetch(pacs)
        assert dict(zip(FAULTS, codes(outcome), strict=True)) == FAULTS
        assert outcome.ended is None
        assert outcome.fetched == len(good) == len(manifest(store))
        assert {line[1] for line in manifest(store)} == {store.names.patient(one.patient) for one in good}
        assert len([p for p in store.images.iterdir() if p.is_dir()]) == len(good)
        for one, code in zip(bad, FAULTS.values(), strict=True):
            record = store.record(store.names.series(one.uid))
            told = None if record is None else (record.state, record.code)
            assert told == (None if code in TRANSIENT else (REFUSED, code)), one.fault
        told = everything_on_disk(store)
        assert [word for word in IDENTITIES if word in told] == []
        for one in bad:
            one.fault = ""
        again = fetch(pacs)  # the faults are gone: what is here is not fetched again
        assert (again.fetched, again.kept, codes(again)) == (len(bad), len(good), [])
        assert [len(one.given) for one in good] == [1] * len(good)


@pytest.mark.slow
def test_a_fetch_that_dies_at_any_write_leaves_no_identity_on_the_disk(tmp_path: Path) -> None:
    """The identities are those that are looked for everywhere, also where they do not belong."""
    told = {"PatientName": NAMES[0], "PatientID": NUMBERS[0], "AccessionNumber": NUMBERS[4]}
    told |= {"PatientBirthDate": DATES[0], "InstitutionName": NAMES[1], "Manufacturer": NAMES[0]}
    shelf = [shelved(1, 2)]
    shelf[0].patient, shelf[0].accession = NUMBERS[0], NUMBERS[4]
    shelf[0].files = [instance(1, index, written={"SliceLocation": NAMES[2]}, **told) for index in range(2)]
    assert {"Quillfeather", "Leopold", NUMBERS[0], DATES[0]} <= found_in(shelf[0].files[0])
    with lying(shelf) as pacs:
        command = [sys.executable, dying_fetcher.__file__, pacs.url, str(tmp_path / "nodes")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    writes = done.stdout.split()[-1]
    assert int(writes) >= 6
    assert len(list((tmp_path / "nodes" / writes).glob("pacs/images/*/*.dcm"))) == 2
    assert found_under(tmp_path / "nodes") == {}
    assert found_in((done.stdout + done.stderr).encode()) == set()


def test_a_series_that_grew_is_fetched_again_whole(store: Store, fetch: Callable[..., Outcome]) -> None:
    with lying([shelved(1, 2, "grows-once")]) as pacs:
        outcome = fetch(pacs)
        assert (outcome.fetched, outcome.instances, codes(outcome)) == (1, 3, [])
        assert pacs.shelf[0].given == [2, 3]
        pacs.shelf[0].files.append(shelved(1, 4).files[-1])
        assert fetch(pacs).instances == 4
        assert pacs.shelf[0].given == [2, 3, 4]
        assert len(manifest(store)) == 4
        assert len([p for p in store.images.iterdir() if p.is_dir()]) == 1


def test_a_pacs_that_fails_again_and_again_ends_the_run_and_the_next_one_goes_on(
    store: Store, fetch: Callable[..., Outcome]
) -> None:
    with lying([shelved(n, 1, "" if n == 1 else "html") for n in range(1, 7)]) as pacs:
        outcome = fetch(pacs)
        assert isinstance(outcome.ended, NotAPacs)
        assert [len(one.given) for one in pacs.shelf] == [1, 1, 1, 1, 0, 0]
        assert len(manifest(store)) == 1
        for one in pacs.shelf:
            one.fault = ""
        assert (again := fetch(pacs)).ended is None
        assert (again.kept, again.fetched) == (1, 5)


def test_unknown_accession_numbers_are_named_and_the_others_get_their_labels(
    store: Store, fetch: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text(
        "Accession Number;Label;Split;Age;Name\nACC001;1;train;41;Quillfeather\nACC999;0;;;\n"
        "ACC002;0;;52;\nACC0*;1;;;\nACC003;1;sometimes;;\n"
    )
    labels = read_labels(tmp_path / "labels.csv", ["age"])
    assert labels.left == ("Name",)
    with lying([shelved(n) for n in (1, 2, 3)]) as pacs:
        outcome = fetch(pacs, labels=labels)
        assert sorted(codes(outcome)) == ["pacs-bad-line", "pacs-bad-line", "pacs-unknown-accession"]
        assert "ACC999" in next(
            o.what for o in outcome.refusals if o.problem.code == "pacs-unknown-accession"
        )
        assert not any("ACC999" in str(o.problem) for o in outcome.refusals)
        lines = {line[1]: line[2:] for line in manifest(store)}
        first, second = (store.names.patient(f"PAT00{n}") for n in (1, 2))
        assert lines == {first: ["train", "1", "41"], second: [store.names.split(second), "0", "52"]}
        (tmp_path / "labels.csv").write_text("accession_number,label\nACC001,0\n")
        assert fetch(pacs, labels=read_labels(tmp_path / "labels.csv")).kept == 1
        assert {line[1]: line[3] for line in manifest(store)} == {first: "0", second: "0"}


@pytest.mark.parametrize("said", ["patient_id\npat001\n", "accession_number,why\nACC001,asked\n"])
def test_who_said_no_never_comes_in_and_goes_when_saying_so_later(
    said: str, store: Store, fetch: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "no.csv").write_text(said)
    opted_out = read_opted_out(tmp_path / "no.csv")
    with lying([shelved(1, 2), shelved(2)]) as pacs:
        outcome = fetch(pacs, opted_out=opted_out)
        assert (outcome.fetched, codes(outcome)) == (1, ["pacs-opted-out"])
        assert pacs.shelf[0].given == []
        assert fetch(pacs).fetched == 1  # before they said so
        assert len(manifest(store)) == 3
        assert fetch(pacs, opted_out=opted_out).removed == 1
        assert len(manifest(store)) == 1
        assert len([p for p in store.images.iterdir() if p.is_dir()]) == 1


def test_who_said_no_is_known_by_the_instances_own_header_too(
    store: Store, fetch: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "no.csv").write_text("patient_id\nPAT001\n")
    hidden = shelved(1, 2)
    hidden.patient = ""  # the index names nobody
    with lying([hidden]) as pacs:
        outcome = fetch(pacs, opted_out=read_opted_out(tmp_path / "no.csv"))
        assert codes(outcome) == ["pacs-opted-out"]
        assert manifest(store) == []


def refusal(pacs: LyingPacs, **given: Any) -> Error:
    with pytest.raises(Error) as caught:
        DicomWeb(pacs.url, **given).check()
    return caught.value


def test_a_wrong_password_an_expired_certificate_and_a_silent_port_are_called_so(tmp_path: Path) -> None:
    login = ("medveil", Secret(b"wrong"))
    with lying([], password="Basic something") as pacs:
        assert isinstance(refusal(pacs, login=login), PacsLogin)
        assert pacs.asked[0][2].startswith("Basic ")
    assert isinstance(refusal(pacs), PacsUnreachable)
    context, authority = certificate(tmp_path, days=-1)
    with lying([], certificate=context) as pacs:
        problem = refusal(pacs, authority=authority, login=login)
        assert isinstance(problem, PacsCertificate)
        assert "expired" in problem.what
        assert pacs.asked == []
    (tmp_path / "good").mkdir()
    context, authority = certificate(tmp_path / "good", days=1)
    with lying([], certificate=context) as pacs:
        DicomWeb(pacs.url, authority=authority).check()
        assert isinstance(refusal(pacs), PacsCertificate)  # nobody else vouches for it


def test_no_proxy_and_no_password_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with lying([]) as pacs:
        DicomWeb(pacs.url).check()
        assert [sent for _, _, sent in pacs.asked] == [""]
        assert isinstance(refusal(pacs, proxy="http://127.0.0.1:9"), PacsUnreachable)


def test_only_get_is_ever_sent() -> None:
    with lying([shelved(1)]) as pacs:
        line = DicomWeb(pacs.url)
        with pytest.raises(NotImplementedError):
            line._session.post(pacs.url + "/studies", data=b"anything")
        with pytest.raises(NotImplementedError):
            line._client.delete_study("1.2.9.1")
        assert pacs.asked == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_parts_of_an_answer_are_whole_however_it_is_cut(size: int) -> None:
    contents = [b"", b"a", b"\r\n--part", b"\r\n--boundar", b"x" * 50]
    body = b"preamble\r\n" if size == 7 else b""
    for one in contents:
        body += b"--boundary\r\nContent-Type: x\r\n\r\n" + one + b"\r\n"
    whole = body + b"--boundary--\r\nepilogue"
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert list(parts(pieces, b"boundary")) == contents
    with pytest.raises(PacsUnreachable):
        list(parts([body], b"boundary"))


def test_a_page_is_no_answer_with_images() -> None:
    assert boundary_in('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    for kind in ("text/html", "", "application/json", "multipart/related"):
        with pytest.raises(NotAPacs):
            boundary_in(kind)
