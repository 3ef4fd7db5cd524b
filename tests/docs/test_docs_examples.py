"""The code in the pages runs as it is printed: each file of docs/extending.md is all that its addition needs.

An example is put into its folder (a second one of the same package), found there as everything else is, and
used in a small study: it is not merely imported.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from error_pages import ROOT
from hospital_node.training import TrainingRound, evaluate, release, self_check, train
from hospital_node.training.unbooked import unbooked_charge
from medveil.metrics import headline, layout, noise_in_sum, released, summarise
from medveil.profile_source import profile_hash
from medveil.profiles import PROFILES
from medveil.registry import Registry, names_in
from medveil.strategies import STRATEGIES, LocalHalf, advance
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tensors import Float32
from medveil_imaging.fingerprints import check_profile
from medveil_imaging.models import MODELS, ModelShape, build, build_model, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.formats import FORMATS
from medveil_imaging.sources.readers import in_this_process
from medveil_imaging.sources.site import read_site
from medveil_research.export import EXPORTS, export
from medveil_research.finished import Finished
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from privacy.metric_limits import can_add_up

CPU = torch.device("cpu")
FILM = (16, 16)
LOCAL = {
    "kind": "local",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
}
Add = Callable[[Registry[Any], str], None]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def files(page: str) -> dict[str, str]:
    """The blocks that follow a file's name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return dict(re.findall(r"\b`?(\w+\.py)`:\n\n```python\n(.*?)```", text, re.S))


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Add]:
    """Puts a file of docs/extending.md where its registry looks; the registry forgets it afterwards."""
    undone: list[Callable[[], object]] = []

    def put(registry: Registry[Any], name: str) -> None:
        entries, package = dict(registry._entries), importlib.import_module(registry._package)
        assert list(registry)  # what ships is found before, and stays
        entries = dict(registry._entries)
        folder = tmp_path / "added" / registry._package
        folder.mkdir(parents=True)
        (folder / name).write_text(files("docs/extending.md")[name], encoding="utf-8")
        package.__path__.append(str(folder))
        registry._loaded = False
        stem = name.removesuffix(".py")
        assert stem in registry
        assert stem in names_in(registry._package)  # what commands offer
        assert set(registry) == {*entries, stem}

        def forget() -> None:
            package.__path__.remove(str(folder))
            registry._entries.clear()
            registry._entries.update(entries)
            sys.modules.pop(f"{registry._package}.{stem}")
            delattr(package, stem)

        undone.append(forget)

    yield put
    for forget in undone:
        forget()


def a_study(**changes: Any) -> tuple[Study, Float32]:
    """Two classes of films, a small model, two steps; with noise unless said otherwise."""
    content: dict[str, Any] = {
        "name": "added",
        "task": "classification",
        "classes": ("absent", "present"),
        "model": "wavelet_head",
        "transforms": {"profile": "xray", "size": FILM},
        "training": {"rounds": 2, "local_steps": 2, "learning_rate": 0.5},
        "privacy": LOCAL,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
        "evaluation": {"bins": 16, "every_round": False},
    } | changes
    outputs = outputs_for(content["task"], content["classes"])
    model = content["model"]
    options = content.pop("options", {"scales": 1, "grid": 4} if model == "wavelet_head" else {})
    spec, vector = initial_vector(
        model, ModelShape(tuple(content["transforms"]["size"]), outputs), options, seed=1
    )
    content["model"] = {"name": model, "options": options, "tensors": spec, "initial_model": "0" * 64}
    study = Study.model_validate(content)
    assert Study.model_validate_json(study.model_dump_json()).hash == study.hash
    return study, vector


def films(count: int = 12) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(
        PatientImages(f"p{i}", torch.randn(1, 1, *FILM, generator=g) + 2 * (i % 2), torch.tensor([i % 2]))
        for i in range(count)
    )


def trained(study: Study, vector: Float32, patients: Any) -> Float32:
    """One round at one hospital, self-check and noise included where the study has noise."""
    private = study.privacy.kind != "none"
    if private:
        self_check(study, build_model(study))
    charge = unbooked_charge(study, round_number=1, split=Split.TRAIN) if private else None
    noise = NoiseSource(bytes(32)) if private else None
    given = TrainingRound(
        study,
        vector,
        patients,
        number=1,
        declared_patients=10,
        noise=noise,
        charge=charge,
        device=CPU,
    )
    return train(given).values


def test_the_example_model_is_trained_with_noise_and_a_federated_step_is_made(add: Add) -> None:
    add(MODELS, "grid_head.py")
    study, vector = a_study(model="grid_head", options={"grid": 4})
    update = trained(study, vector, films())
    assert update.shape == (17,)
    assert update.any()
    model, _ = advance(study, vector, update, {}, number=1)
    assert np.isfinite(model).all()
    volume = build("grid_head", ModelShape(size=(16, 24, 16), outputs=3), {"grid": 4})
    assert volume(torch.zeros(2, 1, 16, 24, 16)).shape == (2, 3)


def test_the_example_task_is_laid_out_trained_summed_and_summarised(add: Add) -> None:
    add(TASKS, "soft_classification.py")
    study, vector = a_study(task="soft_classification")
    model = vector + trained(study, vector, films())
    exact = evaluate(study, model, films(), device=CPU)
    assert {name: len(v) for name, v in exact.items()} == layout(study)
    assert 0 <= summarise(study, exact)[headline(study)] <= 1
    assert headline(study) == "accuracy"
    charge = unbooked_charge(study, round_number=3, split=Split.TEST)
    sums = release(study, model, films(), noise=NoiseSource(bytes(32)), charge=charge, device=CPU)
    assert {name: len(v) for name, v in sums.items()} == released(study)
    assert can_add_up(study, sums, hospitals=1)
    figures = summarise(study, sums, noise=noise_in_sum(study, hospitals=1))
    assert {"accuracy", "noise", "patients"} <= set(figures)
    usual: dict[str, Any] = {"profile": "xray", "hospitals": 3, "patients_hint": 5000, "seed": 1}
    written, _ = new_study(StudyOptions(name="soft", task="soft_classification", **usual))
    assert (written.classes, written.model.name) == (("absent", "present"), "wavelet_head")
    # A label counts as 5 % or 95 %, image by image.
    task, logits, labels = TASKS["soft_classification"], torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 0])
    together = task.loss(logits, labels)
    assert torch.allclose(together, torch.cat([task.loss(logits[i:][:1], labels[i:][:1]) for i in (0, 1)]))
    assert (together > TASKS["classification"].loss(logits, labels)).all()


def test_the_example_profile_reads_a_site_and_a_study_is_trained_on_it(add: Add, tmp_path: Path) -> None:
    add(PROFILES, "ct.py")
    transforms = {"profile": "ct", "size": (16, 16, 16), "spacing_mm": (2.0, 2.0, 2.0)}
    study, vector = a_study(model="small_cnn", transforms=transforms, privacy={"kind": "none"})
    random, lines = np.random.default_rng(0), ["image,patient_id,split,label"]
    for i in range(4):
        voxels = random.uniform(-1000, 1000, (12, 12, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"{i}.nii")
        lines.append(f"{i}.nii,p{i},train,{i % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    site = read_site(tmp_path, study)
    assert not site.problems
    image = site.train[0].images[0, 0]
    assert (image.min(), image.max()) == (-1, 1)
    assert (image[0] == -1).all()  # padded with what is no tissue
    assert trained(study, vector, site.train).any()
    usual: dict[str, Any] = {"privacy": "none", "hospitals": 3, "seed": 1}
    written, _ = new_study(StudyOptions(name="ct", task="segmentation", profile="ct", **usual))
    assert (written.model.name, written.transforms.size) == ("unet3d", (48, 48, 48))


def test_the_example_profile_with_a_compose_reads_films_and_is_part_of_its_study(
    add: Add, tmp_path: Path
) -> None:
    add(PROFILES, "knee.py")
    usual: dict[str, Any] = {"model": "small_cnn", "privacy": "none", "hospitals": 3, "size": (16, 16)}
    options = StudyOptions(name="knees", task="classification", profile="knee", **usual)
    study, _ = new_study(options)
    assert study.transforms.profile_hash == profile_hash("knee")
    check_profile(study.transforms)
    film = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    Image.fromarray(film).save(tmp_path / "a.png")
    (tmp_path / "manifest.csv").write_text("image,patient_id,split,label\na.png,p,train,1\n")
    image = read_site(tmp_path, study).train[0].take([0])[0]
    assert image.shape == (1, 1, 16, 16)
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_the_example_strategy_moves_half_the_way(add: Add) -> None:
    add(STRATEGIES, "damped.py")
    study, vector = a_study(strategy={"name": "damped"}, privacy={"kind": "none"})
    update = trained(study, vector, films())
    model, state = advance(study, vector, update, {}, number=1)
    assert np.array_equal(model, vector + np.float32(0.5) * update)
    assert not state
    with pytest.raises(ValueError, match="factor"):
        STRATEGIES["damped"]({"factor": 0.0})


def test_the_example_local_half_is_obeyed_in_every_step_with_noise_and_without(add: Add) -> None:
    add(STRATEGIES, "decay.py")
    assert isinstance(STRATEGIES["decay"]({}), LocalHalf)
    for privacy in ({"kind": "none"}, LOCAL):
        training = {"rounds": 2, "local_steps": 2, "learning_rate": 1e-6}
        strategy = {"name": "decay", "options": {"decay": 1e6}}
        study, zeros = a_study(privacy=privacy, training=training, strategy=strategy)
        vector = zeros + np.float32(1)
        update = trained(study, vector, films())
        # Two steps so short that the rule alone is seen: each halves the weights.
        assert np.allclose(vector + update, vector / 4, atol=1e-3)
        assert np.array_equal(advance(study, vector, update, {}, number=1)[0], vector + update)


def test_the_example_image_format_is_found_by_its_content_and_read_from_a_site(
    add: Add, tmp_path: Path
) -> None:
    add(FORMATS, "arrays.py")
    study, vector = a_study(privacy={"kind": "none"})
    random, lines = np.random.default_rng(0), ["image,patient_id,split,label"]
    for i in range(3):
        pixels = random.normal(size=(40, 40) if i else (4, 4, 4))
        with (tmp_path / f"{i}.film").open("wb") as file:
            np.save(file, pixels)
        lines.append(f"{i}.film,p{i},train,{i % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    site = read_site(tmp_path, study, readers=in_this_process)  # readers know what lies in the folder
    assert [p.code for p in site.problems if p.row] == ["wrong-dimensions"]
    assert [one.patient for one in site.train] == ["p1", "p2"]
    assert trained(study, vector, site.train).any()


def test_the_example_export_holds_the_weights_by_their_names(add: Add, tmp_path: Path) -> None:
    add(EXPORTS, "npz.py")
    study, vector = a_study(model="small_cnn", privacy={"kind": "none"})
    model = vector + trained(study, vector, films())
    (path,) = export("npz", Finished(study, "ab" * 32, model, epsilon=None), tmp_path)
    network = build_model(study)
    network.load_state_dict({name: torch.from_numpy(v) for name, v in np.load(path).items()})
    spec = study.model.tensors
    assert {t.name for t in spec.root} == set(np.load(path))
    assert np.array_equal(np.load(path)[spec.root[0].name].ravel(), model[: spec.root[0].size])


def test_every_file_of_the_page_is_tried_here() -> None:
    assert set(files("docs/extending.md")) == {
        "grid_head.py", "soft_classification.py", "ct.py", "knee.py", "damped.py", "decay.py", "arrays.py",
        "npz.py",
    }  # fmt: skip
    assert len(blocks("docs/extending.md")) == len(files("docs/extending.md"))


def test_the_researchers_script_uses_what_a_consortium_and_its_studies_have() -> None:
    (script,) = blocks("docs/researcher.md")
    from medveil_research.consortium import Consortium
    from medveil_research.fetching import Fetched
    from medveil_research.shared_study import SharedStudy

    compile(script, "docs/researcher.md", "exec")
    for name, kind in (("consortium", Consortium), ("study", SharedStudy), ("model", Fetched)):
        used = set(re.findall(rf"\b{name}\.(\w+)", script))
        assert used
        assert all(hasattr(kind, each) for each in used), used
