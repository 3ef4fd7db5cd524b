"""A study's rounds as a table: for data frames, CSV files and MLflow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medveil.errors import BadOption
from medveil.files import replace_durably
from medveil.groups import MARK
from medveil.plan import Plan
from medveil.progress import tell
from medveil.rounds import ModelVersion
from medveil.shown import plain
from medveil_research.extras import library
from medveil_research.fetching import TargetExists
from medveil_research.results import RoundFacts

Cell = str | int | float | None
Row = dict[str, Cell]
LOGGED = "medveil.rounds"
"""Tag of an MLflow run: how many rounds are in it."""
PLAN = "medveil.plan"


def rows(rounds: Sequence[RoundFacts], versions: Sequence[ModelVersion]) -> list[Row]:
    """One row per round, all with the same columns in the same order.

    ``judged`` is the version that the row's figures belong to: in a train round the one that it started from.
    ``made`` is the version that the round has made, if it made one. A figure that does not exist is None.
    """
    names = list(dict.fromkeys(name for one in rounds for name in one.figures))
    made = {version.round: version.number for version in versions if version.number > 0}
    table: list[Row] = []
    for one in rounds:
        before = [version.number for version in versions if version.round < one.round]
        table.append(
            {
                "round": one.round,
                "kind": one.kind.value,
                "outcome": one.outcome,
                "attempts": one.attempts,
                "reason": one.reason,
                "hospitals": len(one.survivors),
                "judged": max(before) if before and one.figures else None,
                "made": made.get(one.round),
                "epsilon": one.epsilon,
                "seconds": one.seconds,
                "bytes_up": sum(one.bytes_up.values()),
                "bytes_down": sum(one.bytes_down.values()),
                **{name: one.figures.get(name) for name in names},
            }
        )
    return table


def write_csv(table: Sequence[Row], path: Path, *, replace: bool = False) -> Path:
    """Write rows with a header; empty cells are what is not known. Raises: TargetExists."""
    if path.exists() and not replace:
        raise TargetExists(path=path, option="--replace")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else ["round"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, text.getvalue().encode("utf-8"))
    return path


def log_to_mlflow(
    plan: Plan, rounds: Sequence[RoundFacts], versions: Sequence[ModelVersion], *, uri: str, experiment: str
) -> str:
    """One run per plan: parameters, tags, each round's figures at its number.

    A round that is in the run already is not logged again, so this may be called while the study runs.

    Raises: MissingLibrary, BadOption where MLflow does not take the store.
    """
    refusal = library("mlflow.exceptions").MlflowException
    try:
        client = library("mlflow.tracking").MlflowClient(tracking_uri=uri)
        return _logged(client, plan, rounds, versions, experiment)
    except refusal as error:
        problem = f"MLflow does not take the store '{plain(uri, 100)}': {plain(error, 200)}"
        raise BadOption(problem=problem.rstrip(".")) from error


def _logged(
    client: Any,
    plan: Plan,
    rounds: Sequence[RoundFacts],
    versions: Sequence[ModelVersion],
    experiment: str,
) -> str:
    """Log what is new to the plan's run, and make the run if there is none; its id."""
    known = client.get_experiment_by_name(experiment)
    place = known.experiment_id if known else client.create_experiment(experiment)
    found = client.search_runs([place], f"tags.`{PLAN}` = '{plan.id}'")
    run = found[0] if found else client.create_run(place, run_name=plan.study.name, tags={PLAN: plan.id})
    run_id: str = run.info.run_id
    if not found:
        for name, value in _parameters(plan).items():
            client.log_param(run_id, name, value)
    logged = int(run.data.tags.get(LOGGED, 0))
    for number, one in enumerate(rounds, 1):
        tell("rounds logged", number, len(rounds))
        if one.round > logged and one.outcome == "done":
            values = {**one.figures, "seconds": one.seconds}
            if one.epsilon is not None:
                values["epsilon"] = one.epsilon
            for name, value in values.items():
                client.log_metric(run_id, metric_name(name), value, step=one.round)
    newest = versions[-1]
    tags: dict[str, Cell] = {
        LOGGED: max((one.round for one in rounds if one.outcome == "done"), default=logged),
        "medveil.version": newest.number,
        "medveil.model": newest.model,
        "medveil.epsilon": newest.epsilon,
    }
    for name, text in tags.items():
        client.set_tag(run_id, name, "" if text is None else str(text))
    return run_id


def metric_name(figure: str) -> str:
    """A figure's name as MLflow takes it: letters, digits and ``_-. /``, and a path that resolves to itself.

    A group of patients stands behind a slash: ``auroc/sex_F``.
    """
    plain = re.sub(r"[^\w.\- /]", "_", figure.replace(MARK, "/"))
    return "/".join(part if part.strip(".") else "_" for part in plain.split("/"))


def _parameters(plan: Plan) -> Row:
    study = plan.study
    facts: Row = {
        "study": study.name,
        "task": study.task,
        "model": study.model.name,
        "parameters": study.trained_weights,
        "profile": study.transforms.profile,
        "hospitals": len(plan.roster),
        "rounds": study.training.rounds,
        "optimizer": study.training.optimizer,
        "learning_rate": study.training.learning_rate,
        "strategy": study.strategy.name,
        "privacy": study.privacy.kind,
    }
    if study.privacy.kind != "none":
        facts |= {"epsilon": study.privacy.epsilon, "delta": study.privacy.delta}
    return facts
