"""The files under deploy/ keep their promises: no root, nothing writable but volumes, no secret in them."""

from __future__ import annotations

import re
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_tools import (
    CHART,
    DEPLOY,
    hadolint,
    linted,
    needs_hadolint,
    needs_helm,
    needs_kubernetes,
    rendered,
    validate,
)

CONTAINERFILES = sorted(DEPLOY.glob("Containerfile.*"))
COMPOSES = sorted(DEPLOY.glob("compose*.yaml"))
PINNED = re.compile(r"^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$")
OURS = {"medveil-aggregator", "medveil-node", "medveil-node-cuda"}
AGGREGATOR: dict[str, Any] = {"names": ["fl.example.org"], "database": {"existingSecret": "database"}}
NODE: dict[str, Any] = {
    "enabled": True,
    "invitation": {"existingSecret": "invitation", "wordsCompared": True},
    "images": {"existingClaim": "films"},
    "egress": [{"cidr": "203.0.113.7/32", "port": 8443}],
}
KEEPER: dict[str, Any] = {
    "enabled": True,
    "name": "ethics-office",
    "aggregator": "https://fl.example.org:8443",
    "authority": {"existingSecret": "authority"},
    "egress": [{"cidr": "203.0.113.7/32", "port": 8443}],
}
CLUSTER: dict[str, Any] = {
    "enabled": True,
    "existingSecret": "cluster",
    "bucket": {"existingSecret": "s3"},
    "egress": [{"cidr": "203.0.113.9/32", "port": 443}],
}
WHOLE: dict[str, Any] = {
    "aggregator": AGGREGATOR
    | {"from": ["192.0.2.0/24"], "consortium": "Films: of five", "bucket": {"existingSecret": "s3"}},
    "postgresql": {"enabled": True, "existingSecret": "password"},
    "node": NODE,
    "keeper": KEEPER,
    "cluster": CLUSTER,
}


OF_A_KEEPER = (("name",), ("aggregator",), ("authority", "existingSecret"), ("egress",))
OF_A_CLUSTER = (("existingSecret",), ("bucket", "existingSecret"), ("egress",))


def without(*path: str) -> dict[str, Any]:
    """The whole chart's values, one of them empty."""
    values = deepcopy(WHOLE)
    place = values
    for word in path[:-1]:
        place = place[word]
    place[path[-1]] = type(place[path[-1]])()
    return values


@needs_hadolint
@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    assert hadolint(file) == ""


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_an_image_is_of_a_pinned_base_runs_as_a_number_and_looks_after_itself(file: Path) -> None:
    text = file.read_text()
    last = text[text.rindex("\nFROM ") :]
    base = re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert base is not None
    assert PINNED.match(base[1])
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "\nHEALTHCHECK " in last
    assert "MEDVEIL_VOLUME=/state" in last
    assert "VOLUME " not in last.replace(
        "MEDVEIL_VOLUME", ""
    )  # an unnamed one would hide that none was given
    assert "apt-get" not in last


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_an_image_is_built_from_files_that_are_there_and_let_in_the_hook_of_the_wheel_too(file: Path) -> None:
    root = DEPLOY.parent
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_in = set(re.findall(r"^!(\S+)$", (root / ".dockerignore").read_text(), re.MULTILINE))
    assert copied <= let_in
    assert [name for name in let_in if not (root / name).exists()] == []
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["hooks"]["custom"]["path"] in copied


@pytest.mark.parametrize("file", COMPOSES, ids=lambda file: file.name)
def test_a_composed_service_is_locked_pinned_and_limited(file: Path) -> None:
    composed = yaml.safe_load(file.read_text())
    for name, service in composed["services"].items():
        if "image" not in service:  # adds to a service of compose.yaml
            assert set(service) <= {"ports", "sysctls"}
            continue
        assert service["image"] in OURS or PINNED.match(service["image"]), name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert service["image"] in OURS or service["healthcheck"], name  # our images bring their own
        assert not {"privileged", "env_file", "pid", "cap_add"} & set(service)


def test_what_is_secret_comes_in_files_and_the_database_is_reached_from_the_aggregator_alone() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert {name: set(secret) for name, secret in composed["secrets"].items()} == {
        "database-url": {"file"},
        "database-password": {"file"},
    }
    assert composed["networks"]["records"] == {"internal": True}
    assert composed["services"]["database"]["networks"] == ["records"]
    assert "ports" not in composed["services"]["database"]
    for file in DEPLOY.glob("compose*.yaml"):
        assert not re.search(r"(?i)(password|secret|key):\s*[\w\"']", file.read_text()), file.name


@needs_helm
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "aggregator.names"),
        (without("aggregator", "names"), "aggregator.names"),
        (without("aggregator", "database", "existingSecret"), "aggregator.database.existingSecret"),
        (without("postgresql", "existingSecret"), "postgresql.existingSecret"),
        (without("node", "invitation", "existingSecret"), "node.invitation.existingSecret"),
        (without("node", "invitation", "wordsCompared"), "twelve words"),
        (without("node", "images", "existingClaim"), "node.images.existingClaim"),
        (without("node", "egress"), "node.egress"),
        *((without("keeper", *path), ".".join(("keeper", *path))) for path in OF_A_KEEPER),
        *((without("cluster", *path), ".".join(("cluster", *path))) for path in OF_A_CLUSTER),
        ({"aggregator": AGGREGATOR | {"databse": {}}}, "databse"),
    ],
    ids=[
        *("nothing", "names", "database", "password", "invitation", "words", "images", "egress"),
        *("-".join(("keeper", *path)) for path in OF_A_KEEPER),
        *("-".join(("cluster", *path)) for path in OF_A_CLUSTER),
        "typo",
    ],
)
def test_a_chart_that_lacks_something_says_what(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=re.escape(sentence)):
        rendered(values)


@needs_kubernetes
@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_the_chart_is_good_helm_and_good_kubernetes(kind: str) -> None:
    values = WHOLE | {"node": NODE | {"kind": kind, "gpus": 2, "runtimeClassName": "nvidia"}}
    assert linted(values) == []
    found = rendered(values)
    for one in found:
        validate(one)
    assert "Secret" not in {one["kind"] for one in found}
    node = next(one for one in found if one["metadata"]["name"] == "trial-node" and one["kind"] == kind)
    assert node["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


@needs_helm
def test_every_pod_is_of_the_restricted_kind_and_behind_a_policy() -> None:
    found = rendered(WHOLE)
    pods = {
        one["metadata"]["name"]: one["spec"]["template"] for one in found if "template" in one.get("spec", {})
    }
    policies = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "NetworkPolicy"}
    parts = ("aggregator", "postgresql", "node", "keeper", "scheduler", "worker")
    assert set(pods) == set(policies) == {f"trial-{part}" for part in parts}
    for name, pod in pods.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
        assert set(policies[name]["policyTypes"]) == {"Ingress", "Egress"}
        assert policies[name]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policies["trial-node"]["ingress"] == policies["trial-keeper"]["ingress"] == []
    assert policies["trial-postgresql"]["egress"] == []


@needs_helm
def test_with_a_database_of_its_own_the_chart_brings_none_and_a_node_alone_brings_no_aggregator() -> None:
    names = {one["metadata"]["name"] for one in rendered({"aggregator": AGGREGATOR})}
    assert names == {"trial-aggregator"}
    alone = {one["metadata"]["name"] for one in rendered({"aggregator": {"enabled": False}, "node": NODE})}
    assert alone == {"trial-node"}
    keeper = rendered({"aggregator": {"enabled": False}, "keeper": KEEPER})
    assert {one["metadata"]["name"] for one in keeper} == {"trial-keeper"}


@needs_helm
def test_only_the_scheduler_calls_a_worker_and_only_aggregator_and_workers_call_it() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered(WHOLE) if one["kind"] == "NetworkPolicy"
    }

    def parts(rule: dict[str, Any], way: str) -> list[str]:
        picked = (one["podSelector"]["matchLabels"] for one in rule.get(way, []) if "podSelector" in one)
        return [labels["app.kubernetes.io/component"] for labels in picked]

    (called,) = policies["trial-worker"]["ingress"]
    assert parts(called, "from") == ["scheduler"]
    (called,) = policies["trial-scheduler"]["ingress"]
    assert parts(called, "from") == ["aggregator", "worker"]
    (goes,) = policies["trial-scheduler"]["egress"]
    assert parts(goes, "to") == ["worker"]
    assert "scheduler" in [
        part for way in policies["trial-aggregator"]["egress"] for part in parts(way, "to")
    ]


def test_what_runs_another_command_than_its_image_s_own_is_looked_at_by_that_name() -> None:
    """Else the image would ask a keeper what it asks an aggregator."""
    seen = set()
    for file in COMPOSES:
        for service in yaml.safe_load(file.read_text())["services"].values():
            if "command" in service:
                assert service["healthcheck"]["test"][-1] == service["command"][0]
                seen.add(service["command"][0])
    assert seen == {"keeper", "scheduler", "worker"}


def test_the_chart_is_of_the_version_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (DEPLOY.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart["appVersion"] == version[1]
