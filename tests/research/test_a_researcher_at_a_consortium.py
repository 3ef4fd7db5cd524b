"""A researcher enrols, finds what is open, follows it and takes models home: whole and checked."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
from pydantic import TypeAdapter

from door import Door
from medveil.errors import BadFile, BadOption, Error
from medveil.identity import Identity
from medveil.reports import PlanLine
from medveil.rounds import RoundKind
from medveil.study import read_study
from medveil.tensors import BadModelFile, from_safetensors, model_hash
from medveil_research import Consortium, extras, fetching
from medveil_research.client import PLAN_LINES, NoAnswer
from medveil_research.consortium import NoSuchStudy, SeveralStudies
from medveil_research.enrolment import AlreadyEnrolled, Enrolment, NotEnrolled, enrol
from medveil_research.fetching import FetchBroken, TargetExists
from medveil_research.named_start import NoSuchStart, weights_named
from medveil_research.shared_study import NoSuchVersion, NotEvaluated, SharedStudy
from medveil_research.watching import moments
from researchers import ADDRESS, Line, authority, enrolled, reaching, study_world, token
from world import play


@pytest.fixture
def consortium(folder: Path, line: Line) -> Iterator[Consortium]:
    with Consortium(folder) as made:
        yield made


@pytest.fixture
def films(consortium: Consortium) -> SharedStudy:
    return consortium.study("films")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries."""
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)


def test_enrolment_leaves_one_private_folder_and_may_be_repeated(
    door: Door, line: Line, tmp_path: Path
) -> None:
    used = token(door.world, "ben")
    made = enrolled(door.world, tmp_path, "ben", used)
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in made.folder.iterdir()} == dict.fromkeys(
        ("ca.pem", "identity.key", "research.json"), 0o600
    )
    key = made.identity().public_key
    assert enrolled(door.world, tmp_path, "ben", used).identity().public_key == key
    with Consortium(made.folder) as consortium:
        assert (consortium.name, consortium.address, consortium.studies()) == ("ben", ADDRESS, ())


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"name": "Ünï"}, BadOption, "--name"),
        ({"aggregator": "http://here:1"}, BadOption, "https"),
        ({"aggregator": "here"}, BadOption, "https"),
        ({"authority": "env.sh"}, BadFile, "no certificate"),
        ({"authority": "nowhere"}, BadFile, "No such file"),
        ({"token": " "}, BadOption, "token"),
        ({"token": "0" * 48}, NoAnswer, "token-refused"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named_before_the_token_is_used_and_nothing_is_left(
    door: Door, line: Line, tmp_path: Path, change: dict[str, str], kind: type[Error], word: str
) -> None:
    (tmp_path / "env.sh").write_text("export A=1\n")
    name = f"carl-{len(door.service.register.enrolled_keys())}"
    good = token(door.world, name)
    given = {
        "name": name,
        "aggregator": ADDRESS,
        "authority": str(authority(tmp_path)),
        "token": good,
    } | change
    pem = tmp_path / given.pop("authority")
    with pytest.raises(kind, match=word):
        enrol(tmp_path / "carl", **given, authority=pem)
    assert not (tmp_path / "carl").exists()
    key = Identity.generate("carl").public_key
    assert door.service.register.enrol(good, name=name, public_key=key, now=2.0).name == name


def test_an_aggregator_that_is_not_there_costs_no_token(door: Door, line: Line, tmp_path: Path) -> None:
    line.down = 1
    with pytest.raises(NoAnswer):
        enrolled(door.world, tmp_path, "dora", "0" * 48)
    assert not (tmp_path / "dora").exists()


def test_where_the_answer_to_an_enrolment_is_lost_the_same_line_again_goes_on(
    door: Door, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = token(door.world, "emma")
    with monkeypatch.context() as patch:
        patch.setattr("medveil_research.client.Client.enrol", _lost_after)
        with pytest.raises(NoAnswer) as lost:
            enrolled(door.world, tmp_path, "emma", used)
    assert lost.value.lost
    key = Enrolment.load(tmp_path / "emma").identity().public_key
    enrolled(door.world, tmp_path, "emma", used)
    party = door.service.register.party("emma")
    assert party is not None
    assert party.public_key == key


def _lost_after(client: object, used: str) -> None:
    from medveil.messages import Enrol, enrolment_path

    path = enrolment_path(client._identity.public_key)  # type: ignore[attr-defined]
    client._send("POST", path, Enrol(token=used).to_bytes())  # type: ignore[attr-defined]
    raise NoAnswer(reason="the connection was cut", lost=True)


def test_a_folder_is_for_one_researcher(folder: Path, door: Door, line: Line, tmp_path: Path) -> None:
    with pytest.raises(AlreadyEnrolled, match="anna"):
        enrol(folder, name="ben", aggregator=ADDRESS, authority=authority(tmp_path), token="0" * 48)
    with pytest.raises(NotEnrolled, match="nowhere"):
        Consortium(tmp_path / "nowhere")


def test_a_key_that_the_consortium_does_not_know_is_told_so(folder: Path, line: Line, tmp_path: Path) -> None:
    other = tmp_path / "stranger"
    other.mkdir(mode=0o700)
    for name in ("ca.pem", "research.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    Identity.generate("anna").save(other / "identity.key")
    with Consortium(other) as consortium, pytest.raises(NoAnswer, match="unknown-sender") as refused:
        consortium.studies()
    assert "research enroll" in refused.value.remedy


def test_a_study_is_found_by_name_digits_and_words_and_alone_without(
    consortium: Consortium, door: Door
) -> None:
    from medveil.spoken import spoken

    plan = door.world.plan
    for typed in (
        "films",
        " Films ",
        plan.id[:4],
        plan.id,
        spoken(plan.hash),
        spoken(plan.hash)[:40].rsplit(" ", 1)[0],
        "",
    ):
        assert consortium.study(typed).plan == plan


@pytest.mark.parametrize("typed", ["flims", "0000", "zoo zoo zoo zoo", "\x1b[2J[/]"])
def test_an_unknown_study_is_named_with_what_there_is_and_the_admins_line(
    consortium: Consortium, typed: str
) -> None:
    with pytest.raises(NoSuchStudy) as refused:
        consortium.study(typed)
    assert ("Did you mean 'films'?" in refused.value.what) == (typed == "flims")
    assert "films" in refused.value.meaning
    assert "medveil aggregator people grant anna " in refused.value.remedy
    assert "\x1b" not in str(refused.value)


def test_two_studies_of_one_name_are_told_apart_by_their_digits(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = consortium.lines()
    both = (one, one.model_copy(update={"plan": "f" * 64, "finished": False}))
    monkeypatch.setattr(consortium, "lines", lambda: both)
    for typed in ("films", ""):
        with pytest.raises(SeveralStudies) as refused:
            consortium.study(typed)
        assert one.plan[:8] in refused.value.what
        assert "ffffffff" in refused.value.what
    assert consortium.study(one.plan[:8]).id == one.plan


def test_of_several_rosters_of_one_study_its_name_means_the_one_that_works(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the aggregator tells it, in the column ``works``; an older one does not, and then nobody guesses."""
    (one,) = consortium.lines()
    assert one.works
    plans = ("a" * 64, one.plan, "b" * 64)
    for works in range(3):
        lines = [one.model_copy(update={"plan": p, "works": i == works}) for i, p in enumerate(plans)]
        told = TypeAdapter(tuple[PlanLine, ...]).dump_json(tuple(lines))
        monkeypatch.setattr(consortium, "lines", lambda told=told: PLAN_LINES.validate_json(told))
        assert consortium.line("films").plan == consortium.line().plan == plans[works]
        assert consortium.line("aaaaaaaa").plan == plans[0]  # by its digits the other ones still are there


def test_rounds_versions_and_figures_are_those_of_the_aggregator(films: SharedStudy, door: Door) -> None:
    status = door.world.status
    assert [(r.round, r.kind) for r in films.rounds] == [
        (1, RoundKind.TRAIN), (2, RoundKind.TRAIN), (3, RoundKind.EVALUATE),
    ]  # fmt: skip
    assert [v.model for v in films.versions] == [v["model"] for v in status["versions"]]
    assert films.figures == status["attempts"][-1]["figures"]
    assert films.headline == "auroc"
    assert films.standing == "finished"
    assert films.row()["figure"] == films.figures["auroc"] < 1


def test_the_same_rows_are_a_data_frame_and_a_csv(films: SharedStudy, tmp_path: Path) -> None:
    frame = films.rounds_frame()
    assert list(frame["round"]) == [1, 2, 3]
    assert list(frame["judged"]) == [0, 1, 2]
    assert list(frame["made"])[:2] == [1, 2]
    assert frame["auroc"].iloc[-1] == films.figures["auroc"]
    path = films.curves_csv(tmp_path / "curves.csv")
    again = pandas.read_csv(path)
    assert list(again.columns) == list(frame.columns)
    assert np.allclose(again["auroc"], frame["auroc"])
    with pytest.raises(TargetExists):
        films.curves_csv(path)
    assert films.curves_csv(path, replace=True) == path
    assert not list(tmp_path.glob("*.part"))


def test_studies_are_a_data_frame(consortium: Consortium) -> None:
    frame = consortium.frame()
    assert (list(frame["study"]), list(frame["rounds"]), list(frame["of"])) == (["films"], [3], [3])


def test_a_library_that_is_missing_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(extras.MissingLibrary, match="nothing_like_it") as refused:
        extras.library("nothing_like_it.part")
    assert 'pip install "medveil[research]"' in refused.value.remedy


@pytest.mark.parametrize("which", [None, 0, "1", "hash"])
def test_a_fetched_model_has_its_hash_and_its_study_beside_it(
    films: SharedStudy, tmp_path: Path, which: int | str | None
) -> None:
    expected = films.versions[-1 if which is None else 1 if which == "hash" else int(which)]
    made = films.fetch(expected.model[:8] if which == "hash" else which, tmp_path / "model")
    study = read_study(made.study)
    assert study == films.study
    spec = study.model.tensors
    assert model_hash(from_safetensors(made.weights.read_bytes(), spec), spec).hex() == expected.model
    card = json.loads(made.card.read_text())
    assert (card["plan"], card["number"], card["model"]) == (films.id, expected.number, expected.model)
    assert card["figures"] == films.judged(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_broken_line_is_taken_up_where_it_broke(films: SharedStudy, line: Line, tmp_path: Path) -> None:
    line.cuts, line.asked = [1000, 500, 0, 700], []
    made = films.fetch(folder=tmp_path / "model")
    ranges = [r.headers.get("range") for r in line.asked]
    assert ranges == [None, "bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=2200-"]
    spec = films.study.model.tensors
    assert model_hash(from_safetensors(made.weights.read_bytes(), spec), spec).hex() == made.version.model


def test_a_line_that_stays_broken_leaves_no_model_and_the_next_call_goes_on(
    films: SharedStudy, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.0)
    line.cuts = [1000, *[0] * 10]
    with pytest.raises(FetchBroken, match="1,000 bytes"):
        films.fetch(folder=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    line.cuts, line.asked = [], []
    films.fetch(folder=tmp_path / "model")
    assert [r.headers.get("range") for r in line.asked] == ["bytes=1000-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("left", [b"rubbish", bytes(10**6)], ids=["short", "longer than the model"])
def test_what_an_earlier_call_left_damaged_is_fetched_anew(
    films: SharedStudy, line: Line, tmp_path: Path, left: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.0)
    line.cuts = [0] * 10
    with pytest.raises(FetchBroken):
        films.fetch(folder=tmp_path / "model")
    (part,) = tmp_path.glob(".*.part/model.safetensors")
    part.write_bytes(left)
    line.cuts = []
    assert films.fetch(folder=tmp_path / "model").weights.exists()


def test_a_model_that_is_not_the_one_that_was_asked_for_is_refused(
    films: SharedStudy, line: Line, tmp_path: Path, door: Door
) -> None:
    path = door.world.folder / "models" / films.versions[1].model
    good = path.read_bytes()
    path.write_bytes((door.world.folder / "models" / films.versions[0].model).read_bytes())
    try:
        with pytest.raises(BadModelFile, match="not those of the version"):
            films.fetch(1, tmp_path / "model")
    finally:
        path.write_bytes(good)
    assert list(tmp_path.iterdir()) == []


def test_a_version_or_place_that_cannot_be_is_refused_before_anything_is_asked(
    films: SharedStudy, line: Line, tmp_path: Path
) -> None:
    line.asked = []
    for which in (3, -1, "x", "0" * 64, "1.0"):
        with pytest.raises(NoSuchVersion, match="newest is 2"):
            films.fetch(which, tmp_path / "model")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(TargetExists):
        films.fetch(folder=tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    assert line.asked == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_curves_reach_mlflow_once_each(films: SharedStudy, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/curves.db"
    run = films.to_mlflow(uri)
    assert films.to_mlflow(uri) == run
    client = MlflowClient(tracking_uri=uri)
    told = client.get_metric_history(run, "auroc")
    assert [(m.step, m.value) for m in told] == [(r.round, r.figures["auroc"]) for r in films.rounds]
    found = client.get_run(run).data
    assert found.params["model"] == "small_cnn"
    assert found.tags["medveil.plan"] == films.id
    with pytest.raises(BadOption, match="nonsense"):
        films.to_mlflow("nonsense://x")


def test_a_study_is_followed_over_a_broken_line_and_each_round_is_told_once(tmp_path: Path) -> None:
    with study_world(tmp_path / "aggregator") as (world, sites):
        door = Door(world)
        play(world, sites, until=lambda: world.phase == "upload")
        with reaching(door) as line:
            where = enrolled(world, tmp_path, "anna").folder
            door.service.register.grant(world.plan.id, "anna")
            steps = iter(range(1000))

            def sleep(_: float) -> None:
                line.down = 1 if next(steps) == 1 else 0
                for site in sites:
                    site.act()
                world.coordinator.tick()
                world.clock.now += 1.0

            with Consortium(where) as consortium:
                seen = consortium.study()
                assert "round 1 of 3: masked vectors are uploaded, 0 of 3 answered" in seen.standing
                with pytest.raises(NotEvaluated, match="no figures"):
                    _ = seen.figures
                told = list(moments(seen, sleep=sleep))
        assert [one.round for moment in told for one in moment.ended] == [1, 2, 3]
        assert sum(bool(moment.lost) for moment in told) == 1
        assert told[-1].study.finished
        assert told[-1].study.evaluated


def test_the_next_study_starts_from_a_version_that_was_fetched_or_is_named_by_its_hash(
    films: SharedStudy, folder: Path, tmp_path: Path
) -> None:
    made = films.fetch(2, tmp_path / "v2")
    fetched = weights_named(str(made.folder), folder)
    asked = weights_named(made.version.model[:12], folder)
    for found in (fetched, asked):
        assert found.published is not None
        parent = found.published.parent
        assert parent is not None
        assert (parent.study, parent.plan, parent.number) == ("films", films.id, 2)
        assert (parent.model, parent.epsilon) == (made.version.model, None)
        assert found.published.study == films.study
    assert all(fetched.tensors[name].equal(value) for name, value in asked.tensors.items())


@pytest.mark.parametrize(
    ("typed", "said"), [("0" * 8, "open to you"), ("v2", "no such file"), ("abc", "no hash")]
)
def test_a_start_that_is_nowhere_is_named(films: SharedStudy, folder: Path, typed: str, said: str) -> None:
    with pytest.raises(NoSuchStart, match=said):
        weights_named(typed, folder)
