"""A node folder that was killed in the middle of a round, under an earlier commit, opens and goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hospital_node.cli import app
from hospital_node.cohort import CohortMissing
from hospital_node.computation import Computation
from hospital_node.contribution import Contribution
from hospital_node.journal import Journal
from hospital_node.lineage import OwnVersion, load_version, version_path
from hospital_node.operator import opened
from hospital_node.records import Records
from hospital_node.settings import Node
from hospital_node.steps import ModelInUse
from hospital_node.unsent import LABEL, Unsent
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.study import Study
from medveil_imaging.sources.site import read_site
from old_folders import unpack
from privacy.dp.ledger import State, charges

FIRST_PROTOCOL, BEFORE_ROOMS = "node_d3dd85a.json", "node_6e6bb74.json"


@dataclass
class Left:
    """Killed while it handed in round 2 of a private study; round 1 of a second study was being computed."""

    node: Node
    identity: Identity
    told: dict[str, Any]

    @contextmanager
    def works(self) -> Iterator[tuple[Records, Journal]]:
        """As the process that works has them."""
        with (
            opened(self.node) as journal,
            closing(Records.open(self.node, self.identity, journal)) as records,
        ):
            yield records, journal

    def plans(self, journal: Journal) -> list[Plan]:
        approved = {plan.id: plan for plan, _ in journal.approved()}
        return [approved[name] for name in self.told["plans"]]

    def own(self, study: Study, plan: Plan) -> OwnVersion:
        own = load_version(version_path(self.node.models, plan), study)
        assert own is not None
        return own

    def command(self, *words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--folder", str(self.node.folder)])

    def take(self) -> None:
        """The operator's word, which plans of the first version do not have yet."""
        taken = self.command("cohort", "--take", "--yes")
        assert taken.exit_code == 0, taken.output


@pytest.fixture(params=[FIRST_PROTOCOL, BEFORE_ROOMS])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    told = unpack(request.param, tmp_path, database="node/journal.db")
    file = tmp_path / "node" / "node.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": str(tmp_path / "images")}))
    node = Node.load(tmp_path / "node")
    return Left(node, Identity.load(node.settings.name, node.key), told)


def test_its_approvals_rounds_and_own_model_are_there(left: Left) -> None:
    with opened(left.node) as journal:
        first, second = left.plans(journal)
        assert journal.outdated() == {}
        assert (journal.progress(first.id), journal.progress(second.id)) == (2, 0)
    own = left.own(first.study, first)
    assert [own.version, own.round, own.model.hex()] == left.told["own_version"]
    for words in (["lineage"], ["ledger"], ["ledger", "verify"], ["heads"]):
        done = left.command(*words)
        assert done.exit_code == 0, done.output


def test_its_ledger_counts_what_it_counted(left: Left) -> None:
    before = left.node.ledger.read_bytes()
    with left.works() as (records, _):
        assert records.ledger.spent() == pytest.approx(left.told["spent"])
        assert records.ledger.committed() == pytest.approx(left.told["committed"])
    assert left.node.ledger.read_bytes().startswith(before)
    left.take()
    with left.works() as (records, journal):
        for plan in left.plans(journal):
            records.register(plan)
        assert records.ledger.spent() == pytest.approx(left.told["spent"])
        assert records.ledger.committed() == pytest.approx(left.told["committed"])


def test_its_vector_that_may_be_open_keeps_the_model(left: Left) -> None:
    with left.works() as (_, journal):
        plan = left.plans(journal)[0]
        own = left.own(plan.study, plan)
        with pytest.raises(ModelInUse):
            journal.join(AttemptKey(plan.id, 2, 2), model=own.model, came_from=own.round)


@pytest.mark.parametrize("left", [FIRST_PROTOCOL], indirect=True)
def test_a_private_plan_without_a_cohort_waits_for_the_command_that_its_refusal_names(left: Left) -> None:
    with left.works() as (records, journal):
        plan = left.plans(journal)[0]
        with pytest.raises(CohortMissing) as refused:
            records.use(plan)
    assert "medveil node cohort --take" in refused.value.remedy
    left.take()
    with left.works() as (records, _):
        use = records.use(plan)
    assert use is not None
    assert (use.declared, len(use.cohort.patients)) == (10, 8)  # nothing is released about val


def test_what_was_computed_is_sent_again_and_a_crash_costs_no_charge(left: Left) -> None:
    left.take()
    with left.works() as (records, journal):
        first, second = left.plans(journal)
        before = len(charges(records.ledger.rows()))
        own, unsent = left.own(first.study, first), Unsent(left.node.unsent, left.identity.secret_for(LABEL))
        computation = Computation(
            first, lambda plan: read_site(left.node.settings.data, plan.study), records, unsent=unsent
        )

        async def again() -> Contribution:
            return await computation.prepare(
                AttemptKey(first.id, 2, 2), RoundKind.TRAIN, own.model, own.vector
            )

        with closing(computation):
            found = asyncio.run(again())
        assert hashlib.sha256(found.update.values.tobytes()).hexdigest() == left.told["unsent"]
        records.register(second)
        charge = records.ledger.charge(second.study, plan_id=second.id, round_number=1, attempt=2)
        assert charge.entry.state is State.RUNNING
        assert len(charges(records.ledger.rows())) == before
