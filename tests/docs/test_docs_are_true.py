"""What the pages say exists: links, commands, options, targets, fields, codes, events."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args

import click
import pytest
import typer
from PIL import Image
from pydantic import BaseModel

import error_pages
import house_map
from aggregator.settings import Limits
from aggregator.web.exchanges import MESSAGE_LIMIT, SEGMENT_LIMIT
from aggregator.web.routes.parameters import POLL_LIMIT_S
from hospital_node.settings import NodeSettings, Policy
from medveil import evaluation, groups, log, noise_policies, study
from medveil.cli import root_app
from medveil.compression import MAPS
from medveil.errors import Error
from medveil.ids import fingerprint
from medveil.profiles import PROFILES
from medveil.strategies import STRATEGIES
from medveil.tasks import TASKS
from medveil_imaging.models import MODELS
from medveil_research.export import EXPORTS
from rooms import FOLDERS, ROOT

GENERATED = {"docs/protocol.md", "docs/results.md", "CHANGELOG.md"}
"""Pages that others write: a link to them is right even while they are being made."""
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")})
SECTIONS = (
    study.Study,
    study.ModelChoice,
    study.Target,
    study.Transforms,
    study.Training,
    noise_policies.GaussianNoise,
    noise_policies.JointNoise,
    study.Strategy,
    study.Compression,
    study.SecureAggregation,
    study.Cohort,
    evaluation.Evaluation,
    groups.Groups,
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Anchors as code hosts make them from headings."""
    found = set()
    for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines():
        if line.startswith("#"):
            plain = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(plain.replace(" ", "-"))
    return found


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if "://" not in target:
                yield page, target


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``medveil …`` line of the pages, as (page, words), continued lines joined."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = [
            line for block in re.findall(r"```.*?\n(.*?)```", text, re.S) for line in block.splitlines()
        ]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for line in [*fenced, *inline]:
            found = re.search(r"(?:^|\s|bin/)(medveil [a-z-].*)", line)
            if found and not re.match(r"medveil-", found.group(1)):
                words = re.split(r"\s#\s| && |;|\$\(|\)", found.group(1))[0].split()
                yield page.name, words[1:]


@pytest.fixture(scope="module")
def root_command() -> click.Command:
    app = typer.Typer()
    for entry in entry_points(group="medveil.commands"):
        room = entry.load()
        app.add_typer(room, name=entry.name) if isinstance(room, typer.Typer) else room(app)
    command = typer.main.get_command(app)
    command.params = typer.main.get_command(root_app([])).params
    return command


def test_every_relative_link_leads_to_a_page_and_a_heading() -> None:
    broken = []
    for page, target in links():
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        if file and str(aim.relative_to(ROOT)) in GENERATED:
            continue
        if not aim.exists():
            broken.append(f"{page.name}: {target}")
        elif anchor and aim.suffix == ".md" and anchor not in anchors(aim.read_text(encoding="utf-8")):
            broken.append(f"{page.name}: {target} (no such heading)")
    assert not broken


def test_a_fingerprint_in_the_pages_is_as_long_as_one() -> None:
    long = fingerprint(b"").count("-") + 1
    for page in PAGES:
        for shown in re.findall(r"\b[0-9A-F]{4}(?:-[0-9A-F]{4}){2,}\b", page.read_text(encoding="utf-8")):
            assert shown.count("-") + 1 == long, (page.name, shown)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.M))
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        spans = re.findall(r"```.*?\n(.*?)```|`([^`\n]+)`", text, re.S)
        for span in ("\n".join(pair) for pair in spans):
            named |= set(re.findall(r"(?:^|\s)\$?\s?make (?:-C \S+ )?([a-z-]+)", span, re.M))
    assert {"demo", "test", "install", "check"} <= named
    assert named <= targets


def test_every_command_and_option_that_is_named_exists(root_command: click.Command) -> None:
    wrong, count = [], 0
    for page, words in commands():
        command: click.Command = root_command
        rest = list(words)
        while rest and hasattr(command, "commands") and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        count += 1
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
        used = {w.split("=")[0] for w in rest if re.match(r"--?[a-z]", w) and w != "--"}
        group = hasattr(command, "commands")
        unknown = group and rest and re.match(r"[a-z]", rest[0]) and command is not root_command
        if unknown or (command is root_command and rest and re.match(r"[a-z]", rest[0])) or used - options:
            wrong.append(f"{page}: medveil {' '.join(words)}")
    assert count > 40
    assert not wrong


def test_the_map_of_the_house_is_what_the_code_says() -> None:
    assert text_of("docs/architecture.md") == house_map.page(), "run python tests/support/house_map.py"


def test_the_page_of_errors_is_what_the_code_says() -> None:
    assert text_of("docs/errors.md") == error_pages.page(), "run python tests/support/error_pages.py"


def test_every_error_that_can_be_raised_has_its_entry() -> None:
    for package in FOLDERS:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.rpartition(".")[2].startswith("_"):  # a command, and the compiled pass
                importlib.import_module(module.name)
    waiting, codes = [Error], set()
    while waiting:
        found = waiting.pop().__subclasses__()
        waiting += found
        codes |= {e.code for e in found if not e.__module__.startswith(("test", "conftest"))}
    headings = anchors(text_of("docs/errors.md"))
    assert codes - set(error_pages.BASES) <= headings


def test_every_field_of_a_study_is_explained_to_its_author() -> None:
    page = text_of("docs/researcher.md")
    missing = [
        f"{section.__name__}.{field}"
        for section in SECTIONS
        for field, info in section.model_fields.items()
        if f"`{field}`" not in page and not _is_section(info.annotation)
    ]
    assert not missing


def _is_section(kind: object) -> bool:
    parts = [kind, *get_args(kind)]
    return any(isinstance(p, type) and issubclass(p, BaseModel) for p in parts) or "Noise" in str(kind)


def test_everything_that_a_researcher_can_name_is_in_the_researchers_page() -> None:
    page = text_of("docs/researcher.md")
    named = (*MODELS, *STRATEGIES, *TASKS, *PROFILES, *EXPORTS, *MAPS)
    assert [name for name in named if f"`{name}`" not in page] == []


def test_every_setting_of_a_node_is_in_the_operators_page() -> None:
    page = text_of("docs/operator.md")
    for field in (*NodeSettings.model_fields, *Policy.model_fields):
        assert field in page or field.replace("_", "-") in page, field


def test_every_event_of_node_and_aggregator_is_explained() -> None:
    for package, page in (("hospital_node", "docs/operator.md"), ("aggregator", "docs/admin.md")):
        events = set()
        for path in (ROOT / package).rglob("*.py"):
            events |= set(re.findall(r'\blog\.\w+\(\s*"([^"]+)"', path.read_text(encoding="utf-8")))
        assert events
        text = text_of(page)
        assert [event for event in sorted(events) if f"`{event}`" not in text] == []


def test_the_approval_in_the_operators_page_is_what_the_command_shows() -> None:
    """Every label of the screen stands in the example, and none that the screen does not have."""
    source = ast.parse((ROOT / "hospital_node" / "views.py").read_text(encoding="utf-8"))
    labels = set()
    for function in ast.walk(source):
        if isinstance(function, ast.FunctionDef) and function.name in (
            "plan_rows",
            "_learning",
            "_privacy",
            "_who_could_see",
            "_asking",
        ):
            for one in ast.walk(function):
                if isinstance(one, ast.Yield) and isinstance(one.value, ast.Tuple):
                    label = one.value.elts[0]
                    label = label.args[0] if isinstance(label, ast.Call) else label
                    if isinstance(label, ast.Constant) and label.value:
                        labels.add(str(label.value))
    assert {"with", "sums", "hidden", "not hidden", "memory", "time", "leaves"} <= labels
    page = text_of("docs/operator.md")
    (screen,) = re.findall(r"```\nchest-films\n(  words [^`]*?allowed .*?)\n```", page, re.S)
    assert [label for label in sorted(labels) if not re.search(rf"^  {label}\b", screen, re.M)] == []
    assert max(map(len, screen.splitlines())) <= 80


def test_no_log_field_could_hold_what_the_pages_say_is_never_logged() -> None:
    assert not log.ALLOWED & {
        "patient",
        "patient_id",
        "file",
        "path",
        "label",
        "loss",
        "key",
        "seed",
        "value",
    }


def test_the_front_of_nginx_lets_segments_and_long_polls_through() -> None:
    text = text_of("deploy/nginx.conf")
    for_messages, for_segments = (int(m) * 2**20 for m in re.findall(r"client_max_body_size (\d+)m", text))
    assert for_messages == MESSAGE_LIMIT
    assert for_segments > SEGMENT_LIMIT
    assert int(re.search(r"proxy_read_timeout (\d+)s", text)[1]) > POLL_LIMIT_S  # type: ignore[index]
    through = re.search(r"proxy_timeout (\d+)s", text_of("deploy/nginx-stream.conf"))
    assert int(through[1]) > max(POLL_LIMIT_S, Limits().idle_s)  # type: ignore[index]


@pytest.mark.parametrize("unit", sorted(path.name for path in (ROOT / "deploy").glob("*.service")))
def test_the_units_run_an_existing_command_without_privileges(unit: str, root_command: click.Command) -> None:
    lines = text_of(f"deploy/{unit}").splitlines()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "Restart=on-failure"):
        assert line in lines
    assert unit not in ("medveil-node.service", "medveil-worker.service") or "MemoryMax=90%" in lines
    start = next(line for line in lines if line.startswith("ExecStart="))
    command, words = root_command, start.split()[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    assert words[0] == "--folder"
    assert words[0] in {name for option in command.params for name in option.opts}
    assert any(line.startswith("User=medveil-") for line in lines)


def test_the_pictures_of_the_readme_are_whole_and_small() -> None:
    assert ElementTree.parse(ROOT / "docs" / "what-leaves.svg").getroot().tag.endswith("svg")
    with Image.open(ROOT / "docs" / "report.png") as picture:
        assert picture.width == 1280
    assert (ROOT / "docs" / "report.png").stat().st_size < 400_000
    for name in ("operator-page.png", "dashboard.png"):
        with Image.open(ROOT / "docs" / name) as picture:
            assert picture.width == 1180
        assert (ROOT / "docs" / name).stat().st_size <= 200_000


def test_the_front_page_shows_a_round_and_a_report_and_says_where_peers_were_read() -> None:
    page = text_of("README.md")
    for picture in ("docs/report.png", "docs/dashboard.png"):
        assert f"]({picture})" in page
    rows = re.findall(
        r"^\| .+ \| (.+) \| .+ \|$", page[page.index("| project |") :].partition("\n\n")[0], re.M
    )
    sources = dict(re.findall(r"^\[([\w-]+)\]: (https://github\.com/\S+)$", page, re.M))
    named = [name for row in rows for name in re.findall(r"\]\[([\w-]+)\]", row)]
    assert set(named) == set(sources)
    assert len(named) == len(rows) - 2  # the header, and the row of what was found nowhere
    for address in sources.values():  # a page that stays as it was read
        assert re.search(r"/(blob/[0-9a-f]{40}|issues/\d+)(/|$)", address), address
