"""Writes ``deploy/grafana.json``, the board of an aggregator: what is asked, and where it stands."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from served import ROOT

BOARD = ROOT / "deploy" / "grafana.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ONE = '{study="$study"}'
Query = tuple[str, str]
"""PromQL, and how its lines are called."""
ROWS: list[tuple[str, list[tuple[str, str, str, list[Query]]]]] = [
    (
        "Now",
        [
            ("Leading process", "stat", "none", [("sum(medveil_leader)", "leads")]),
            ("Open studies", "stat", "none", [('medveil_plans{state="open"}', "open")]),
            ("Hospitals in reach", "stat", "none", [('medveil_hospitals{state="in_reach"}', "in reach")]),
            ("Certificate ends in", "stat", "s", [("min(medveil_certificate_seconds_left)", "left")]),
            ("Last backup", "stat", "s", [("time() - max(medveil_backup_timestamp_seconds)", "ago")]),
            ("Disk free", "stat", "bytes", [("min(medveil_disk_free_bytes)", "free")]),
            (
                "Cluster: last segment",
                "stat",
                "s",
                [("time() - max(medveil_cluster_last_segment_timestamp_seconds > 0)", "ago")],
            ),
            ("Alarms", "stat", "none", [('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")]),
        ],
    ),
    (
        "The study",
        [
            (
                "Round",
                "stat",
                "none",
                [(f"medveil_study_round{ONE}", "open"), (f"medveil_study_rounds{ONE}", "of")],
            ),
            ("State", "state-timeline", "none", [(f"medveil_study_state{ONE}", "{{state}}")]),
            ("Phase", "state-timeline", "none", [(f"medveil_study_phase{ONE}", "{{phase}}")]),
            (
                "Waiting since, and until",
                "timeseries",
                "s",
                [
                    (f"medveil_study_waiting_seconds{ONE}", "waiting"),
                    (f"medveil_study_deadline_left_seconds{ONE}", "until the deadline"),
                ],
            ),
            (
                "Hospitals",
                "timeseries",
                "none",
                [
                    (
                        'medveil_study_hospitals{study="$study", state=~"in_reach|invited|answered|needed"}',
                        "{{state}}",
                    )
                ],
            ),
            (
                "Silent for",
                "timeseries",
                "s",
                [
                    (f"medveil_study_last_heard_seconds{ONE}", "longest"),
                    (f"medveil_study_hospital_last_heard_seconds{ONE}", "hospital {{hospital}}"),
                ],
            ),
            (
                "Attempts an hour",
                "timeseries",
                "none",
                [(f"increase(medveil_study_attempts_total{ONE}[1h])", "{{outcome}}")],
            ),
            (
                "Rounds published",
                "timeseries",
                "none",
                [(f"medveil_study_rounds_published_total{ONE}", "published")],
            ),
            (
                "Seconds a phase (mean)",
                "timeseries",
                "s",
                [
                    (
                        f"sum by (phase) (rate(medveil_study_phase_seconds_sum{ONE}[$__rate_interval])) / "
                        f"sum by (phase) (rate(medveil_study_phase_seconds_count{ONE}[$__rate_interval]))",
                        "{{phase}}",
                    )
                ],
            ),
            (
                "Privacy spent",
                "timeseries",
                "none",
                [
                    (f"medveil_study_epsilon{ONE}", "{{scope}}"),
                    (f"medveil_study_epsilon_stated{ONE}", "stated"),
                ],
            ),
        ],
    ),
    (
        "The machine",
        [
            (
                "Requests a second",
                "timeseries",
                "reqps",
                [("sum by (status) (rate(medveil_requests_total[$__rate_interval]))", "{{status}}")],
            ),
            (
                "Durable changes, 95th percentile",
                "timeseries",
                "s",
                [
                    (
                        "histogram_quantile(0.95, sum by (le) "
                        "(rate(medveil_database_write_seconds_bucket[$__rate_interval])))",
                        "95 %",
                    )
                ],
            ),
            (
                "Audit log",
                "timeseries",
                "none",
                [
                    ("increase(medveil_audit_entries_total[1h])", "entries an hour"),
                    ("medveil_audit_unwitnessed_entries", "not seen by a hospital"),
                    ("medveil_audit_unsent_entries", "not in the archive"),
                ],
            ),
            (
                "Failures an hour, by code",
                "timeseries",
                "none",
                [("sum by (reason) (increase(medveil_attempt_failures_total[1h]))", "{{reason}}")],
            ),
            (
                "Memory",
                "timeseries",
                "bytes",
                [("process_resident_memory_bytes", "{{job}}"), ("medveil_body_bytes", "bodies")],
            ),
            (
                "Relays: sums an hour",
                "timeseries",
                "none",
                [("increase(medveil_relay_sums_total[1h])", "{{instance}} {{outcome}}")],
            ),
            (
                "Keepers: letters an hour",
                "timeseries",
                "none",
                [
                    ("increase(medveil_keeper_letters_total[1h])", "{{outcome}}"),
                    ("medveil_keeper_letters_waiting", "waiting"),
                ],
            ),
            (
                "Cluster: workers",
                "timeseries",
                "none",
                [
                    ("medveil_cluster_workers", "workers"),
                    ("medveil_cluster_segments_waiting", "segments in hand"),
                ],
            ),
            (
                "Cluster: segments an hour",
                "timeseries",
                "none",
                [("increase(medveil_cluster_segments_total[1h])", "{{outcome}}")],
            ),
        ],
    ),
]
"""Row → panels: title, kind, unit, queries."""


def queries() -> list[str]:
    """All that the board asks."""
    return [query for _, panels in ROWS for *_, asked in panels for query, _ in asked]


def board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    ids, panels, y = count(1), [], 0
    for title, row in ROWS:
        panels.append(
            {
                "id": next(ids),
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        small = all(kind == "stat" for _, kind, *_ in row)
        width, height = (3, 4) if small else (8, 8)
        for place, (name, kind, unit, asked) in enumerate(row):
            across = 24 // width
            at = {"h": height, "w": width, "x": place % across * width, "y": y + place // across * height}
            panels.append(_panel(next(ids), name, kind, unit, asked) | {"gridPos": at})
        y += -(-len(row) // (24 // width)) * height
    return {
        "uid": "medveil-aggregator",
        "title": "MedVeil",
        "tags": ["medveil"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(number: int, name: str, kind: str, unit: str, asked: list[Query]) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "title": name,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(asked)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "study",
            "label": "Study",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": "label_values(medveil_study_state, study)", "refId": "study"},
            "refresh": 2,
            "sort": 1,
        },
    ]


def written() -> str:
    """The file's text."""
    return json.dumps(board(), indent=1) + "\n"


if __name__ == "__main__":
    BOARD.write_text(written())
