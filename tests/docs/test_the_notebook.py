"""The worked notebook runs from top to bottom against a real aggregator, and is kept without outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import nbformat
import pytest
from nbclient import NotebookClient

from aggregator.access.tls import make_certificates
from aggregator.access.tokens import make_token
from aggregator.settings import Limits
from aggregator.storage.register import Role
from door import Door
from researchers import ADDRESS, authority, reaching, study_world, token
from rooms import ROOT
from served import served
from world import World, play

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-study.ipynb"


@contextmanager
def finished(folder: Path) -> Iterator[World]:
    """A study that has been played to its end."""
    with study_world(folder) as (world, sites):
        play(world, sites, until=lambda: bool(world.status["finished"]))
        yield world


def cells(**parameters: str) -> list[str]:
    """The notebook's code, with other parameters."""
    found = []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            own = "parameters" in cell.metadata.get("tags", ())
            found.append("\n".join(f"{k} = {v!r}" for k, v in parameters.items()) if own else cell.source)
    return found


def given(world: World, folder: Path, address: str, pem: Path) -> dict[str, str]:
    """What a researcher puts into the first cell. The study is open to the name before its key is known."""
    _, kept = make_token("anna", Role.RESEARCHER, now=1.0, expires=2.0)
    world.store.register.add_api_token(kept)
    world.store.register.grant(world.plan.id, "anna")
    return {
        "NAME": "anna", "ADDRESS": address, "AUTHORITY": str(pem), "TOKEN": token(world, "anna"),
        "STUDY": "films", "FOLDER": str(folder / "research"),
    }  # fmt: skip


def test_the_notebook_is_valid_plain_and_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    names = [line.partition(" ")[0] for line in notebook.cells[1].source.splitlines()]
    assert names == ["NAME", "ADDRESS", "AUTHORITY", "TOKEN", "STUDY", "FOLDER"]
    assert set(json.loads(NOTEBOOK.read_text())["metadata"]) == {"kernelspec", "language_info"}


def test_every_cell_of_the_notebook_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, at the application without a network; the next test has a kernel and HTTPS."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    with finished(tmp_path / "aggregator") as world, matplotlib.rc_context({"backend": "agg"}):
        door = Door(world)
        with reaching(door):
            for number, source in enumerate(cells(**given(world, tmp_path, ADDRESS, authority(tmp_path)))):
                exec(compile(source, f"cell {number}", "exec"), scope)
    matplotlib.pyplot.close("all")
    said = capsys.readouterr().out
    assert "finished" in said
    assert '"study": "films"' in said
    assert "patients, 0 files rejected" in said


@pytest.mark.slow  # a kernel and a server take seconds to start
def test_the_notebook_runs_in_jupyter_over_https(tmp_path: Path) -> None:
    with finished(tmp_path / "aggregator") as world:
        world.admin.save(world.folder / "admin.key")
        make_certificates(world.folder / "tls", ("127.0.0.1",))
        filled = given(world, tmp_path, "", world.folder / "tls" / "ca.pem")
        world.store.close()
        with served(world.folder, Limits()) as server:
            notebook = nbformat.read(NOTEBOOK, as_version=4)
            code = cells(**filled | {"ADDRESS": f"https://127.0.0.1:{server.port}"})
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.source = code.pop(0)
            NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("patients, 0 files rejected" in output.get("text", "") for output in outputs)
