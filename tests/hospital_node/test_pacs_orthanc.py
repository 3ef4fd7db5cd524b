"""A real Orthanc with a password: what went in comes out without identities, and nothing there changes."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

import dcmtk_peer
import orthanc
from dicom_files import NAME, block, save, slice_header
from dicom_segs import highdicom_seg, outlined
from hospital_node.cli import app
from hospital_node.images import PACS_LABEL
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dicomweb import DicomWeb
from hospital_node.pacs.dimse import Dimse
from hospital_node.pacs.fetching import Fetching, Search, Wanted
from hospital_node.pacs.lists import read_labels
from hospital_node.pacs.outlines import Outlines
from hospital_node.pacs.peer import Pacs, Query
from hospital_node.pacs.problems import PacsLogin
from hospital_node.pacs.store import Store, store_of
from hospital_node.settings import Node
from lying_pacs import instance
from medveil.identity import Identity, Secret
from medveil_imaging.sources.read import read_film, read_label_map, read_volume
from medveil_imaging.sources.sealed import MAGIC, open_with
from tries import leading

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
SITES = ("pacs-a", "pacs-b", "pacs-c", "pacs-r")
needs_orthanc = pytest.mark.skipif(not orthanc.installed(), reason=f"Orthanc is not here: {orthanc.INSTALL}")
needs_dcmtk = pytest.mark.skipif(
    not dcmtk_peer.installed(), reason=f"DCMTK is not here: {dcmtk_peer.INSTALL}"
)


def made(folder: Path) -> list[bytes]:
    """A volume of six slices of one patient and two films of another."""
    slices = []
    for number in range(6):
        header = slice_header(
            block(),
            number,
            StudyInstanceUID="1.2.9.7",
            SeriesInstanceUID="1.2.9.7.1",
            AccessionNumber="ACC007",
            StudyDate="20240202",
            PatientID="PAT007",
            SeriesDescription="T1 axial",
            FrameOfReferenceUID="1.2.8",
        )
        slices.append(save(folder / f"{number}.dcm", header).read_bytes())
    return [*slices, instance(1, 0), instance(1, 1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc.Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc.running(folder / "server", made(folder)) as running:
        yield running


@pytest.fixture
def new_store(tmp_path: Path, node: Node) -> Iterator[Callable[[], Store]]:
    """Makes stores of one node; images that it has sealed open in this process."""
    identity = Identity.generate("st-marys")
    identity.save(node.key)
    open_with(identity.secret_for(PACS_LABEL))
    yield lambda: store_of(node)
    open_with(None)


def web(server: orthanc.Orthanc, password: str = orthanc.PASSWORD) -> DicomWeb:
    return DicomWeb(server.url, login=(orthanc.USER, Secret(password.encode())))


@needs_orthanc
@pytest.mark.parametrize("protocol", leading(["dicomweb", "dimse"], 1))
def test_what_went_in_comes_out_and_nothing_there_has_changed(
    protocol: str, server: orthanc.Orthanc, new_store: Callable[[], Store], tmp_path: Path
) -> None:
    pacs: Pacs = web(server) if protocol == "dicomweb" else Dimse(server.dimse, title=orthanc.OUR_TITLE)
    pacs.check()
    before, store = server.state(), new_store()
    query = Query(modality="mr", body_part="*", description="t1 AX*")
    (only,) = Search(pacs, Wanted(query)).found()
    assert (only.modality, only.count, only.accession) == ("MR", 6, "ACC007")
    assert list(Search(pacs, Wanted(Query(description="T2"))).found()) == []
    (tmp_path / "labels.csv").write_text("accession_number,label\nACC001,1\nACC007,0\n")
    wanted = Wanted(labels=read_labels(tmp_path / "labels.csv"))
    outcome = Fetching(pacs, store, wanted, cleaner(store.names)).run()
    assert (outcome.fetched, outcome.instances, outcome.refusals) == (2, 8, [])
    again = Fetching(pacs, store, wanted, cleaner(store.names)).run()
    assert (again.fetched, again.kept) == (0, 2)
    assert server.state() == before
    folder = store.record(store.names.series("1.2.9.7.1")).folder  # type: ignore[union-attr]
    assert np.array_equal(read_volume(store.images / folder).voxels, as_read(made(tmp_path)[:6], tmp_path))
    for path in store.images.rglob("*.dcm"):
        assert path.read_bytes().startswith(MAGIC)
        assert path.stat().st_mode & 0o077 == 0


def as_read(files: list[bytes], folder: Path) -> np.ndarray:  # type: ignore[type-arg]
    (folder / "plain").mkdir()
    for number, data in enumerate(files):
        (folder / "plain" / f"{number}.dcm").write_bytes(data)
    return read_volume(folder / "plain").voxels


@needs_orthanc
@pytest.mark.slow  # it loads highdicom, and starts a server of its own
@pytest.mark.parametrize(
    ("kind", "protocol"), [("BINARY", "dicomweb"), ("LABELMAP", "dicomweb"), ("BINARY", "dimse")]
)
def test_an_outline_that_highdicom_wrote_comes_in_bit_for_bit(
    kind: str, protocol: str, new_store: Callable[[], Store], tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    files = made(tmp_path)[:6]
    sources = [dcmread(BytesIO(data)) for data in files]
    drawn = BytesIO()
    highdicom_seg(sources, outlined(), kind, ExplicitVRLittleEndian).save_as(drawn)
    with orthanc.running(tmp_path / "server", [*files, drawn.getvalue()]) as running:
        pacs: Pacs = web(running) if protocol == "dicomweb" else Dimse(running.dimse, title=orthanc.OUR_TITLE)
        before, store = running.state(), new_store()
        wanted = Wanted(Query(modality="MR"), outlines=Outlines("", {"part 1": 1, "part 2": 2}))
        outcome = Fetching(pacs, store, wanted, cleaner(store.names)).run()
        assert running.state() == before
    assert (outcome.fetched, outcome.outlines, outcome.refusals) == (1, 1, [])
    with (store.images / "manifest.csv").open() as file:
        (line,) = csv.DictReader(file)
    read = read_label_map(store.images / line["label_map"], store.images / line["image"])
    assert np.array_equal(read.voxels, outlined())


@needs_orthanc
def test_a_wrong_password_and_a_strange_title_are_refused(server: orthanc.Orthanc) -> None:
    with pytest.raises(PacsLogin):
        web(server, "wrong").check()
    with pytest.raises(PacsLogin):
        Dimse(server.dimse.replace(orthanc.TITLE, "OTHER"), title=orthanc.OUR_TITLE).check()


@pytest.mark.slow
@needs_dcmtk
def test_another_program_that_speaks_dimse_is_understood(
    new_store: Callable[[], Store], tmp_path: Path
) -> None:
    with dcmtk_peer.running(tmp_path / "peer", made(tmp_path)) as address:
        pacs, store = Dimse(address, title=dcmtk_peer.OUR_TITLE), new_store()
        pacs.check()
        outcome = Fetching(pacs, store, Wanted(), cleaner(store.names)).run()
        assert (outcome.fetched, outcome.instances, outcome.refusals) == (2, 8, [])


@needs_orthanc
def test_an_operator_types_four_commands_and_the_password_is_nowhere(
    server: orthanc.Orthanc, node: Node, tmp_path: Path
) -> None:
    Identity.generate("st-marys").save(node.key)
    said = []

    def typed(*words: str, status: int = 0) -> str:
        answer = CliRunner().invoke(app, ["pacs", *words, "--folder", str(node.folder)])
        assert answer.exit_code == status, answer.output + repr(answer.exception)
        said.append(answer.output)
        return answer.output

    secret = orthanc.password_file(tmp_path)
    login = ("--pacs-user", orthanc.USER, "--pacs-password-file", str(secret))
    assert "PASSED" in typed("connect", server.url, *login, "--pacs-mb-s", "100")
    assert "2 series of 2 patients, from 2024-01-31 to 2024-02-02" in typed("find")
    (tmp_path / "labels.csv").write_text("accession_number,label,ward\nACC001,1,Q\nACC404,0,R\n")
    told = typed("fetch", "--labels", str(tmp_path / "labels.csv"), status=1)
    assert "1 series fetched (2 images)" in told
    assert "ward" in told
    assert "ACC404" not in told  # this is no terminal
    assert "1 series of 1 patients" in typed("status")
    files = [path.read_bytes() for path in node.folder.rglob("*") if path.is_file()]
    for hidden in (orthanc.PASSWORD, NAME.split("^")[0], "PAT001", "ACC001"):
        assert not any(hidden.encode() in one for one in files), hidden
        assert not any(hidden in one for one in said), hidden


@needs_orthanc
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["dicomweb", "dimse"])
def test_the_pack_comes_out_as_the_volumes_and_films_it_was_made_from(
    protocol: str, new_store: Callable[[], Store], tmp_path: Path
) -> None:
    pack = DATA / "dicom-pacs"
    if not pack.is_dir():
        pytest.skip("dicom-pacs is not there: set MEDVEIL_DATA to the folder of the data packs")
    files = (path.read_bytes() for path in sorted(pack.rglob("*.dcm")))
    with orthanc.running(tmp_path / "server", files) as server:
        pacs: Pacs = web(server) if protocol == "dicomweb" else Dimse(server.dimse, title=orthanc.OUR_TITLE)
        before, store = server.state(), new_store()
        outcome = Fetching(pacs, store, Wanted(), cleaner(store.names)).run()
        assert (outcome.instances, outcome.refusals) == (before[0], [])
        assert server.state() == before
    for site in SITES:
        with (pack / site / "manifest.csv").open(encoding="utf-8", newline="") as file:
            listed = list(csv.DictReader(file))
        for line in listed:
            record = store.record(store.names.series(line["series_uid"]))
            assert record is not None
            assert record.patient == store.names.patient(line["patient_id_in_file"])
            same(store.images / record.folder, line, pack / site / line["series"])


def same(ours: Path, line: dict[str, str], plain: Path) -> None:
    """Whether a fetched series is, bit for bit, the image that it was made from."""
    origin = DATA / line["pack_image"] if line["pack_image"] else None
    if line["modality"] == "CR":
        (path,) = ours.iterdir()
        assert origin is not None
        assert np.array_equal(read_film(path).pixels, np.asarray(Image.open(origin).convert("L")))
        return
    volume, before = read_volume(ours), read_volume(plain)
    assert np.array_equal(volume.voxels, before.voxels)
    assert np.array_equal(volume.affine, before.affine)
    if origin is not None:
        mine = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.voxels, volume.affine))
        theirs = nibabel.as_closest_canonical(nibabel.load(origin))
        assert np.array_equal(mine.get_fdata(), theirs.get_fdata())
        assert np.allclose(mine.affine, theirs.affine, atol=1e-3)
