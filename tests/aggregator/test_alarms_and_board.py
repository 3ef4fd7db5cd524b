"""Alarms speak when they should, ask for what is there, and say what to do; so does the board for Grafana."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import board
from aggregator.monitoring import AuditTarget, Monitoring
from aggregator.relay.watched import relay_gauges
from aggregator.storage.register import Role
from aggregator.web.gauges import cluster_gauges
from aggregator.web.metrics import ALLOWED_LABELS, Metrics
from aggregator.work.cluster import ENDS, Standing
from door import Door
from promtool import DEPLOY, needs_promtool, promtool
from served import ROOT
from world import World

Build = Callable[..., World]
SCENARIOS = sorted(Path(__file__).parent.glob("alerts_scenarios*.yml"))
OF_PROMETHEUS = {"up", "ALERTS", "process_start_time_seconds", "process_resident_memory_bytes"}
OTHER_LABELS = {"job", "instance", "alertstate", "__name__"}
FOLDED = re.compile(r"\$__rate_interval")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    return found


def asked() -> dict[str, str]:
    """Every query of the rules and the board, by whose it is."""
    told = {rule["alert"]: rule["expr"] for rule in rules()}
    return told | {f"panel {n}": query for n, query in enumerate(board.queries())}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all that an aggregator with a cluster and an archive, and a relay, tell Prometheus."""
    from world import make_world

    folder = tmp_path_factory.mktemp("exported")
    world = make_world(folder / "world")
    door = Door(world, monitoring=Monitoring(audit=AuditTarget(to="syslog://127.0.0.1:1")))
    page = door.show(door.token("prometheus", Role.MONITOR), "GET", "/metrics").text

    class Quiet:
        in_hand = vectors = 0
        sums = dict.fromkeys(("sent", "failed"), 0)

    relay = Metrics(tls=folder / "tls", disk=folder)
    quiet = Standing(workers=0, waiting=0, ended=dict.fromkeys(ENDS, 0), last=0.0)
    relay.show(lambda: [*relay_gauges(Quiet(), 2), *cluster_gauges(quiet, 0.0)])  # type: ignore[arg-type]
    names = set(OF_PROMETHEUS) | {"medveil_certificate_seconds_left"}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page + relay.page()[0].decode(), re.M):
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    door.service.close()
    world.store.close()
    return names


def test_whatever_an_alarm_or_the_board_asks_for_is_there(exported: set[str]) -> None:
    for whose, query in asked().items():
        bare = re.sub(r'"[^"]*"', '""', query)
        names = set(re.findall(r"\b(medveil_\w+|process_\w+|up|ALERTS)\b", bare))
        assert names, whose
        assert names <= exported, (whose, names - exported)
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", bare))
        assert labels <= ALLOWED_LABELS | OTHER_LABELS, (whose, labels)


@needs_promtool
@pytest.mark.slow
def test_each_alarm_speaks_in_its_scenario_and_in_no_other(tmp_path: Path) -> None:
    """Its words are left out: promtool would hold them to the letter."""
    told = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for rule in told["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(told))
    for file in SCENARIOS:
        shutil.copy(file, tmp_path)
        assert "SUCCESS" in promtool("test", "rules", tmp_path / file.name)


def test_each_alarm_has_a_scenario_in_which_it_speaks() -> None:
    played: dict[str, set[bool]] = {}
    for scene in (one for file in SCENARIOS for one in yaml.safe_load(file.read_text())["tests"]):
        for check in scene["alert_rule_test"]:
            played.setdefault(check["alertname"], set()).add(bool(check.get("exp_alerts")))
    assert set(played) == {rule["alert"] for rule in rules()}
    assert all(True in told for told in played.values())


@needs_promtool
def test_prometheus_takes_the_rules_the_queries_of_the_board_and_the_example_configuration(
    tmp_path: Path,
) -> None:
    promtool("check", "rules", DEPLOY / "alerts.yml")
    queries = [FOLDED.sub("5m", query) for query in board.queries()]
    records = [{"record": f"panel_{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", tmp_path / "panels.yml")
    text = (DEPLOY / "prometheus.yml").read_text()
    for name in set(re.findall(r"/etc/prometheus/([\w.-]+)", text)):
        (tmp_path / name).write_text("x")
    shutil.copy(DEPLOY / "alerts.yml", tmp_path / "medveil-alerts.yml")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus", str(tmp_path)))
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")


@needs_promtool
def test_an_alarm_says_what_happened_what_it_means_and_what_to_do_in_readable_figures(tmp_path: Path) -> None:
    (rule,) = (rule for rule in rules() if rule["alert"] == "MedVeilRoundStuck")
    words = dict(rule["annotations"])
    words["summary"] = "Study s has been in one phase for 40m 0s."
    scene = {
        "interval": "1m",
        "input_series": [
            {"series": 'medveil_study_waiting_seconds{study="s"}', "values": "0+60x60"},
            {"series": 'medveil_study_phase{study="s", phase="upload"}', "values": "1x60"},
        ],
        "alert_rule_test": [
            {
                "eval_time": "40m",
                "alertname": "MedVeilRoundStuck",
                "exp_alerts": [
                    {"exp_labels": {"severity": "critical", "study": "s"}, "exp_annotations": words}
                ],
            }
        ],
    }
    told = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": [scene]}
    (tmp_path / "scene.yml").write_text(yaml.safe_dump(told))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "scene.yml")


def test_every_alarm_is_told_of_in_the_admins_pages() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("### Alarms of Prometheus\n")[2].partition("\n## ")[0]
    for rule in rules():
        words = rule["annotations"]
        assert set(words) == {"summary", "meaning", "remedy", "page"}
        assert words["page"] == "docs/operations.md#alarms-of-prometheus"
        assert all(len(words[key]) > 20 for key in words)
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert f"`{rule['alert']}`" in section


GRID = {
    "type": "object",
    "required": ["h", "w", "x", "y"],
    "properties": {"w": {"minimum": 1, "maximum": 24}, "x": {"minimum": 0, "maximum": 23}},
}
SOURCE = {"const": {"type": "prometheus", "uid": "${datasource}"}}
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer"},
        "type": {"enum": ["row", "stat", "timeseries", "state-timeline"]},
        "title": {"type": "string", "minLength": 3},
        "gridPos": GRID,
        "datasource": SOURCE,
        "targets": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["refId", "datasource", "expr", "legendFormat"],
                "properties": {"refId": {"pattern": "^[A-Z]$"}, "datasource": SOURCE},
            },
        },
    },
    "if": {"properties": {"type": {"const": "row"}}},
    "else": {"required": ["datasource", "targets", "fieldConfig"]},
}
DASHBOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "templating", "panels", "time", "refresh"],
    "properties": {
        "uid": {"type": "string", "maxLength": 40},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 10, "items": PANEL},
        "templating": {
            "required": ["list"],
            "properties": {
                "list": {
                    "items": {
                        "required": ["name", "type", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    }
                }
            },
        },
    },
}


def test_the_board_is_one_that_grafana_reads_and_is_as_it_was_written() -> None:
    text = board.BOARD.read_text()
    assert text == board.written(), "write it anew: python tests/support/board.py"
    told = json.loads(text)
    jsonschema.validate(told, DASHBOARD)
    assert {one["name"] for one in told["templating"]["list"]} == {"datasource", "study"}
    panels = told["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
