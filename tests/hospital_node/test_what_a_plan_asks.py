"""A plan that hides too little or asks too much is refused, and the approval says in words what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.access.tls import make_certificates
from hospital_node.cli import app
from hospital_node.demand import demand_of, images_in, memory_limit
from hospital_node.governance import PlanRefused, check_plan, check_terms
from hospital_node.operator import Standing, Stands, opened, standing
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.views import show_plan
from medveil.errors import BadFile, BadOption
from medveil.identity import Identity, KeyFileExists
from medveil.plan import Plan
from medveil.shown import Screen
from medveil_imaging.frozen import FOLDER
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 7)]
STEP: dict[str, Any] = {"rounds": 2, "local_steps": 1, "learning_rate": 1.0}


def plan_of(**changes: Any) -> Plan:
    return make_plan(PEOPLE, make_study(**changes))


def settings(folder: Path = Path("/nowhere"), *, cache_gb: float = 20.0, **policy: Any) -> NodeSettings:
    return NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=folder,
        dataset="films",
        policy=Policy(**{"allow_no_privacy": True, **policy}),
        cache_gb=cache_gb,
    )


def films(folder: Path, count: int, end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["image,patient_id,split,label", *(f"{i}.png,p{i},train,0" for i in range(count))]
    (folder / "manifest.csv").write_text("\n".join(lines) + end)
    return folder


TEN_STEPS = {"training": STEP | {"local_steps": 10}}


@pytest.mark.parametrize(
    ("policy", "changes", "words"),
    [
        ({"min_hospitals": 4}, {}, "3 hospitals; 4 is the least here"),
        ({"min_colluders": 1}, {}, "the aggregator and 0 others together; 1 is the least here"),
        ({"max_parameters": 11}, {}, "12 parameters; 11 is the most here"),
        ({"max_steps": 19}, TEN_STEPS, "20 steps of training; 19 is the most here"),
        ({"max_voxels": 255}, {}, "256 pixels or voxels an image; 255 is the most here"),
        ({"memory_gb": 0.1}, {}, "0.5 GB of memory or more; 0.1 GB is the most here"),
    ],
)
def test_each_part_of_the_policy_refuses_what_lies_beyond_it_and_says_what_to_do(
    policy: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    plan = plan_of(**changes)
    check_plan(plan, settings(), PEOPLE[0])
    with pytest.raises(PlanRefused) as refused:
        check_plan(plan, settings(**policy), PEOPLE[0])
    assert words in refused.value.what
    (name,) = policy
    assert name in refused.value.remedy


def test_more_images_than_memory_holds_are_refused_before_they_are_read(tmp_path: Path) -> None:
    size = {"profile": "mri", "size": (256, 256, 256), "spacing_mm": (1, 1, 1)}
    plan, many = plan_of(transforms=size), films(tmp_path / "films", 1000)
    with pytest.raises(PlanRefused, match="with the 1,000 images here"):
        check_plan(plan, settings(many, cache_gb=0, memory_gb=64.0), PEOPLE[0])
    few = films(tmp_path / "few", 100)
    check_plan(plan, settings(few, cache_gb=0, memory_gb=64.0), PEOPLE[0])
    check_plan(plan, settings(many, memory_gb=4.0), PEOPLE[0])  # they lie on the disk


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_images_are_counted_by_the_lines_of_the_manifest(tmp_path: Path, end: str) -> None:
    assert images_in(films(tmp_path / "films", 12, end)) == 12
    assert images_in(tmp_path / "absent") == 0


def test_epochs_count_as_the_steps_that_they_are_with_these_images(tmp_path: Path) -> None:
    training = {"rounds": 3, "local_epochs": 2, "batch_images": 4, "learning_rate": 1.0}
    plan, folder = plan_of(training=training), films(tmp_path / "films", 10)
    assert demand_of(plan, settings(folder)).steps == 3 * 2 * 3
    with pytest.raises(PlanRefused, match="18 steps"):
        check_plan(plan, settings(folder, max_steps=17), PEOPLE[0])


def test_the_estimate_grows_with_images_their_size_batch_and_model(tmp_path: Path) -> None:
    base = demand_of(plan_of(), settings(films(tmp_path / "a", 100))).memory_bytes
    more = demand_of(plan_of(), settings(films(tmp_path / "b", 200))).memory_bytes
    larger = plan_of(transforms={"profile": "xray", "size": (64, 64)})
    wider = plan_of(training=STEP | {"batch_images": 64})
    here = settings(tmp_path / "a")
    assert more - base == 100 * (4 * 16 * 16 + 16)
    assert demand_of(larger, here).memory_bytes > base
    assert demand_of(wider, here).memory_bytes > base


def test_a_plan_with_frozen_weights_is_refused_until_their_file_is_here_and_asks_for_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    here, digest = settings(films(tmp_path / "a", 100)), "a" * 64
    model = plan_of().study.model.model_dump(mode="json")
    plan = plan_of(model=model | {"options": {"adapters": 4, "base_weights": digest}})
    with pytest.raises(PlanRefused, match=f"frozen weights '{digest}.safetensors' is not in this machine's"):
        check_terms(plan, here, PEOPLE[0])
    before = demand_of(plan, here).memory_bytes
    (tmp_path / f"{digest}.safetensors").write_bytes(bytes(1000))
    check_terms(plan, here, PEOPLE[0])
    assert demand_of(plan, here).memory_bytes == before + 3 * 1000


def test_the_limit_is_the_machines_where_the_policy_names_none() -> None:
    assert memory_limit(Policy(memory_gb=3.0)) == 3_000_000_000
    assert 10**8 < memory_limit(Policy()) < 10**14


def told(plan: Plan, capsys: pytest.CaptureFixture[str], **policy: Any) -> str:
    show_plan(Screen(), Standing(plan, Stands.ALLOWED), settings(**policy))
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("least", "colluders", "friends", "others", "more"),
    [
        (3, 0, "alone, even if it lies,", 2, "; any 1 may"),
        (3, 1, "and any 1 of the others together, even if they lie,", 2, " memory"),
        (5, 1, "and any 1 of the others together, even if they lie,", 4, "; any 2 may"),
        (6, 4, "and any 4 of the others together, even if they lie,", 5, " memory"),
    ],
)
def test_the_approval_says_how_many_others_together_can_see_this_hospitals_update(
    capsys: pytest.CaptureFixture[str], least: int, colluders: int, friends: str, others: int, more: str
) -> None:
    limits = {"update_clip": 2.0, "max_weight": 100, "colluders": colluders}
    text = told(plan_of(cohort={"min_hospitals": least}, secure_aggregation=limits), capsys)
    assert f"the aggregator {friends} cannot see this hospital's update" in text
    assert f"any {others} of the others together can see it, as it is, after a sum of {least}{more}" in text


def test_the_approval_shows_everything_that_it_binds_this_hospital_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    noise = {
        "kind": "local",
        "clip_norm": 1.0,
        "noise_multiplier": 4.0,
        "evaluation_multiplier": 2.0,
        "epsilon": 3.0,
    }
    text = told(
        plan_of(privacy=noise, description="Films [ward A], see [1]. Ends [/ward]."), capsys, epsilon_cap=7.0
    )
    for words in (
        "says: Films [ward A], see [1]. Ends [/ward].",
        "2 rounds of 1 step and a final evaluation, up to 2 attempts each",
        "brought to 16 x 16 pixels",
        "368 bytes a round, 336 bytes for the evaluation; no number of an update larger than 2",
        "epsilon 3, delta 1e-05 per patient; the cap here is 7",
        "each over 3 to 6 of these 6 hospitals; the plan starts when 4 have approved",
        "with this hospital's noise on it",
        "0.5 GB or more with the 0 images here",
        "2 steps in all",
        "10 min to train, 30 min to send",
    ):
        assert words in text, words


def test_no_line_of_the_approval_is_wider_than_a_small_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Screen(), Standing(plan_of(description="x" * 500 + " 胸部" * 200), Stands.ALLOWED), settings())
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 80
        assert not line[:1].strip() or line == "tiny"


def init(folder: Path, authority: Path, data: Path, *more: str) -> None:
    words = ["init", "--name", "st-marys", "--aggregator", "https://here", "--authority", str(authority)]
    found = CliRunner().invoke(app, [*words, "--data", str(data), "--folder", str(folder), *more])
    if found.exception is not None:
        raise found.exception


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "tls", ("localhost",))
    return tmp_path / "tls" / "ca.pem"


def test_every_policy_can_be_set_when_the_node_is_made(tmp_path: Path, authority: Path) -> None:
    options = {
        "--min-hospitals": "5",
        "--min-colluders": "2",
        "--max-parameters": "1000",
        "--max-steps": "200",
        "--max-voxels": "4096",
        "--memory-gb": "8",
        "--delta-cap": "1e-6",
        "--epsilon-cap": "3",
        "--task": "segmentation",
        "--profile": "mri",
        "--hours": "19:00-07:00",
        "--max-upload-mb": "50",
        "--upload-bytes-per-s": "100000",
        "--gpu-device": "1",
        "--gpu-memory-share": "0.5",
        "--burned-in": "refuse",
        "--faces": "allow",
    }
    words = [part for pair in options.items() for part in pair]
    words += ["--allow-no-privacy", "--count-joint-noise"]
    init(
        tmp_path / "node",
        authority,
        films(tmp_path / "films", 1),
        *words,
        "--allow-no-privacy",
        "--count-joint-noise",
        "--allow-site-figures",
        "--no-gpu",
    )
    policy = Node.load(tmp_path / "node").settings.policy
    left = {name for name, field in Policy.model_fields.items() if getattr(policy, name) == field.default}
    assert not left


@pytest.mark.parametrize(
    "option",
    [
        ("--min-hospitals", "2"),
        ("--memory-gb", "0"),
        ("--epsilon-cap", "nan"),
        ("--max-steps", "0"),
        ("--hours", "late"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_at_once(
    tmp_path: Path, authority: Path, option: tuple[str, str]
) -> None:
    with pytest.raises(BadOption) as refused:
        init(tmp_path / "node", authority, films(tmp_path / "films", 1), *option)
    assert "http" not in refused.value.what
    assert not (tmp_path / "node").exists()


def test_what_a_node_is_made_of_is_looked_at_at_once(tmp_path: Path, authority: Path) -> None:
    data = films(tmp_path / "films", 1)
    (tmp_path / "env.sh").write_text("export A=1\n")
    for wrong in (tmp_path / "env.sh", tmp_path / "absent", tmp_path):
        with pytest.raises(BadFile):
            init(tmp_path / "node", wrong, data)
    with pytest.raises(BadFile, match="no folder"):
        init(tmp_path / "node", authority, tmp_path / "nope")
    assert not (tmp_path / "node").exists()
    init(tmp_path / "node", authority, data)
    with pytest.raises(KeyFileExists, match=r"edit the \.json file"):
        init(tmp_path / "node", authority, data)


def from_model(epsilon: float | None, plan: str = "ab" * 32) -> Plan:
    parent = {"study": "films", "plan": plan, "number": 3, "model": "cd" * 32, "epsilon": epsilon}
    return plan_of(model=plan_of().study.model.model_dump(mode="json") | {"parent": parent})


@pytest.mark.parametrize(
    ("epsilon", "cost"),
    [(7.5, "a model that has already cost its patients epsilon 7.5"), (None, "nothing bounds what it says")],
)
def test_an_operator_is_told_what_a_study_starts_from_and_what_that_has_cost(
    capsys: pytest.CaptureFixture[str], epsilon: float | None, cost: str
) -> None:
    shown = told(from_model(epsilon), capsys)
    assert "starts from version 3 of study 'films', plan abababababababab" in shown
    assert cost in shown
    assert "this hospital was not in that study" in shown


def test_an_operator_is_told_that_this_hospital_was_in_the_study_before(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", settings(films(tmp_path / "films", 20)))
    node.save()
    PEOPLE[0].save(node.key)
    before = plan_of()
    assert not standing(node, from_model(7.5, before.id)).parent_known
    with opened(node) as journal:
        journal.approve(before, b"signature")
    assert standing(node, from_model(7.5, before.id)).parent_known
    assert not standing(node, before).parent_known
