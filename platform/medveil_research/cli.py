"""The researcher's command line: which commands there are. Each stands in a file of :mod:`.commands`."""

from __future__ import annotations

import typer

from medveil.lean import expect_monai
from medveil.options import from_options
from medveil_research.commands import (
    audit,
    compare,
    demo,
    doctor,
    enroll,
    evaluate,
    explain,
    export,
    fetch,
    mnist,
    own_model,
    predict,
    privacy,
    report,
    seed,
    simulate,
    studies,
    study,
    watch,
)


def register(app: typer.Typer) -> None:
    """Add ``demo``, ``study``, ``privacy``, ``research``, ``simulate`` and ``doctor`` to the root."""
    expect_monai()
    app.command("demo")(from_options(demo.demo))
    app.add_typer(study.group(), name="study")
    app.add_typer(privacy.group(), name="privacy")
    app.add_typer(_research(), name="research")
    app.command("simulate")(from_options(simulate.simulate))
    app.command("doctor")(doctor.doctor)


def _research() -> typer.Typer:
    group = typer.Typer(
        help="For a researcher: follow a study, fetch its model, judge it, report it.", no_args_is_help=True
    )
    group.command("enroll")(enroll.enroll)
    group.command("studies")(studies.studies)
    group.command("ask")(studies.ask)
    group.command("watch")(watch.watch)
    group.command("fetch")(fetch.fetch)
    group.command("curves")(fetch.curves)
    group.command("report")(report.report)
    group.command("evaluate")(evaluate.evaluate)
    group.command("compare")(from_options(compare.compare))
    group.command("predict")(predict.predict)
    group.command("explain")(explain.explain)
    group.command("export")(export.export)
    group.command("verify")(export.verify)
    group.command("audit")(audit.audit)
    group.command("own-model")(own_model.own_model)
    group.command("seed")(seed.seed)
    group.command("mnist")(mnist.mnist)
    return group
