"""The operator sees how far the node's own model has come, and alone takes an alarm away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain import Chain
from hospital_node.cli import app
from hospital_node.evidence import NoSuchModel
from hospital_node.journal import Journal
from hospital_node.lineage import BrokenLineage, Lineage
from hospital_node.settings import Node, NodeSettings
from medveil.plan import sign_approval
from medveil.spoken import spoken


def shown(node: Node, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lineage", *options, "--folder", str(node.folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.stdout.split())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    settings = NodeSettings(
        name="hospital-1", aggregator="https://here", data=Path("/nowhere"), dataset="hospital-1"
    )
    made = Node(tmp_path / "node", settings)
    made.save()
    return made


def test_the_command_shows_progress_and_alarm_and_starts_again(node: Node) -> None:
    chain = Chain()
    journal = Journal(node.journal)
    journal.approve(chain.plan, sign_approval(chain.plan, chain.identities[0]))
    lineage = Lineage(chain.plan, node.models, journal, chain)
    plan = spoken(chain.plan.hash)
    assert shown(node)[0] == 0
    assert "own model none yet" in shown(node)[1]
    chain.grow(1)
    asyncio.run(lineage.reach(chain.newest.model, number=2, attempt=1))
    code, text = shown(node)
    assert (code, f"words {plan} " in text) == (0, True)
    assert f"own model version 1, {chain.newest.model.hex()}" in text
    with pytest.raises(BrokenLineage):
        asyncio.run(lineage.reach(b"m" * 32, number=2, attempt=1))
    code, text = shown(node)
    assert code == 1
    assert all(part in text for part in ("ALARM", "broken-lineage", chain.newest.model.hex(), "6d" * 32))
    with pytest.raises(NoSuchModel):
        shown(node, "--start-again", "0" * 64)
    assert shown(node)[0] == 1
    code, text = shown(node, "--start-again", plan)
    assert (code, "none yet" in text) == (0, True)
    asyncio.run(lineage.reach(chain.newest.model, number=2, attempt=1))
    assert chain.asked.count("sum 1") == 2
    journal.close()
