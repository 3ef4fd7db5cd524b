"""``medveil node …``: what a hospital's operator types.

Each command opens the node's folder first and loads what it needs after that: a mistake is named at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_check import check_kind
from hospital_node.cli_cohort import check_images, cohort
from hospital_node.cli_consent import leave, pause, refuse, resume, stop, withdraw
from hospital_node.cli_join import doctor, join
from hospital_node.cli_ledger import DEFAULT, Folder, ledger, node_in
from hospital_node.cli_manifest import manifest
from hospital_node.cli_pacs import pacs
from hospital_node.cli_page import page
from hospital_node.cli_persons import persons
from hospital_node.cli_ranks import train_job
from hospital_node.cli_relay import relay
from hospital_node.cli_sent import sent
from hospital_node.cli_setup import certificate, enroll, init
from hospital_node.cli_status import policy, status
from medveil.folders import named
from medveil.freed import BETWEEN_ROUNDS, keep_freed
from medveil.lean import expect_monai
from medveil.log import set_up
from medveil.options import from_options
from medveil.shown import NotConfirmed, Screen, can_ask
from medveil.volumes import begin_on_volume

if TYPE_CHECKING:
    from hospital_node.operator import Standing
    from hospital_node.settings import Node
    from medveil.plan import Plan
    from medveil_imaging.sources.site import SiteData


def _begin() -> None:
    begin_on_volume()
    expect_monai()


app = typer.Typer(
    no_args_is_help=True,
    help="For a hospital's operator: connect this hospital, check its images, approve, run.",
    callback=_begin,
)
app.add_typer(ledger, name="ledger")
app.add_typer(pacs, name="pacs")
app.add_typer(persons, name="persons")
app.add_typer(sent, name="sent")
app.command()(cohort)
app.command()(from_options(join))
app.command()(from_options(manifest))
app.command()(from_options(init))
app.command()(enroll)
app.command()(certificate)
app.command()(relay)
app.command()(status)
app.command()(policy)
for command in (refuse, withdraw, leave, pause, resume, stop):
    app.command()(command)
app.command()(doctor)
app.command()(page)
app.command()(train_job)
screen, progress = Screen(), Screen(stderr=True)


@app.command()
def check(
    study: Annotated[
        Path | None, typer.Option(help="A study file to check the images against; offered plans without it.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="A kind of image, before there is a study: xray, mri, brain, picture …")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="A folder with manifest.csv, before there is a node.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="With --profile: the column of a number that is to be learned.")
    ] = "",
    preview: Annotated[
        Path | None, typer.Option(help="Also write a page with a few images as the network will see them.")
    ] = None,
    connection: Annotated[bool, typer.Option(help="Also ask the aggregator for the plans.")] = True,
    folder: Folder = DEFAULT,
) -> None:
    """Read every image as a study would and list what cannot be used, why, and what to do."""
    if profile or data is not None or preview is not None:
        raise typer.Exit(
            check_kind(study=study, profile=profile, data=data, target=target, preview=preview, folder=folder)
        )
    node = node_in(folder)
    import asyncio

    from hospital_node import operator
    from medveil.study import read_study

    if study is not None:
        raise typer.Exit(check_images(node, read_study(study)))
    found = asyncio.run(operator.on_offer(node)) if connection else []
    plans = [one.plan for one in found if isinstance(one, operator.Standing)]
    if not plans:
        screen.say("There is no plan to check against yet. Name a study: --study study.toml")
        raise typer.Exit(1)
    raise typer.Exit(max(check_images(node, plan.study, plan) for plan in plans))


@app.command()
def approve(
    plan: Annotated[
        list[str] | None,
        typer.Argument(help="The plan's twelve words, or its hash, as the admin read it to you."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: the fingerprint was compared before.")
    ] = False,
    patients: Annotated[
        int | None,
        typer.Option(help="The number of patients to declare, for the plan's life; else the proposed one."),
    ] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Show the plans on offer in plain words; with a fingerprint, sign the one that was shown under it."""
    node = node_in(folder)
    import asyncio

    from hospital_node import operator, views

    if plan:
        _approve_shown(node, plan, patients, yes=yes)
        screen.say("Approved. The node hands it in, once it has read the images. Next:")
        screen.say(f"  medveil node run {named(folder)}")
        return
    with progress.waiting():
        found = asyncio.run(operator.on_offer(node))
    views.show_outdated(screen, operator.outdated(node))
    for one in found:
        if isinstance(one, operator.Standing):
            operator.remember_shown(node, one)
            _show(node, one)
        else:
            views.show_unreadable(screen, one)
    if not found:
        screen.say("No plan is on offer.")


def _show(node: Node, one: Standing) -> None:
    """The plan; of one that changes the roster of a plan that was approved here the difference only."""
    from hospital_node import roster_changes, views

    change = roster_changes.change_of(node, one.plan)
    stays = change is not None and change.roster.stays
    rows = () if change is None else roster_changes.change_rows(change)
    views.show_plan(screen, _compared(node, one), node.settings, changed=rows, only_changed=stays)


def _compared(node: Node, one: Standing) -> Standing:
    """With the plan that it may take the place of, unless it is approved itself."""
    from dataclasses import replace

    from hospital_node import operator

    if one.stands in (operator.Stands.APPROVED, operator.Stands.RUNNING, operator.Stands.FINISHED):
        return one
    return replace(one, before=operator.approved_before(node, one.plan))


def _approve_shown(node: Node, typed: list[str], patients: int | None, *, yes: bool) -> None:
    """Raises: NotAFingerprint, NoSuchPlan, NotConfirmed, PlanRefused and what else speaks against it."""
    from hospital_node import operator
    from hospital_node.cohort import ImagesFolder

    plan, images = operator.shown_plan(node, typed), ImagesFolder()
    with progress.waiting():
        standing = operator.standing(node, plan, patients=patients, images=images)
    _show(node, standing)
    if standing.refusal is not None:
        raise standing.refusal
    question = (
        "Has the admin read these twelve words to you, and does this hospital approve exactly this plan?"
    )
    if not yes and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    shown = standing.patients
    operator.approve_plan(node, plan, patients=patients if shown is None else shown.declared, images=images)


@app.command()
def run(folder: Folder = DEFAULT) -> None:
    """Work on the approved plans until stopped (Ctrl-C, SIGTERM)."""
    node = node_in(folder)
    from hospital_node.limits import confine_gpu
    from hospital_node.resting import RESTED, Resting, begin_anew
    from hospital_node.sentences import for_people
    from medveil.log import get_logger

    keep_freed(BETWEEN_ROUNDS)
    set_up(people=for_people(node))
    confine_gpu(node.settings.policy, os.environ)
    log, fresh = get_logger(), RESTED not in os.environ
    if fresh:
        log.info("node.starting")
    try:
        _run(node, fresh=fresh)
    except Resting as resting:
        log.info("node.resting")
        sys.stderr.flush()
        begin_anew(resting.plans)
    except KeyboardInterrupt:
        pass
    log.info("node.stopped")
    sys.stderr.flush()
    os._exit(0)  # a training step in hand is not waited for; its charge stands


def _run(node: Node, *, fresh: bool) -> None:
    """Raises: Resting; what the operator must put right before a node can run."""
    import asyncio
    import signal

    from hospital_node import operator
    from hospital_node.certificate import keep_certificate
    from hospital_node.images import read_images_logged
    from hospital_node.plan_queue import run as work
    from medveil.log import get_logger

    log = get_logger()
    for plan_id in operator.outdated(node):
        log.error("plan.outdated", plan=plan_id, code="plan-refused")

    def read(plan: Plan) -> SiteData:
        return read_images_logged(node, plan.study, plan.id)

    async def until_stopped() -> None:
        task: asyncio.Future[None] = asyncio.ensure_future(work(node, read))
        renewing = asyncio.ensure_future(keep_certificate(node))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        finally:
            renewing.cancel()

    if fresh:
        log.info("node.started")
    with suppress(asyncio.CancelledError):
        asyncio.run(until_stopped())


@app.command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove it; images are read from their files again.")
    ] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Show how large the sealed copies of this hospital's images are; remove them."""
    node = node_in(folder)
    from medveil_imaging.cache import cache_size, clear_cache

    if clear:
        clear_cache(node.cache)
    screen.say(f"{cache_size(node.cache) / 1e9:.2f} GB of {node.settings.cache_gb:g} GB are in use.")


@app.command()
def lineage(
    start_again: Annotated[
        str | None,
        typer.Option(
            help="A plan's twelve words or hash: take its alarm away, check its models from the first."
        ),
    ] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Show how far this node's own copy of each plan's model has come, and what it has refused."""
    node = node_in(folder)
    from hospital_node import evidence, views

    if start_again is not None:
        evidence.start_again(node, [start_again])
    found = evidence.own_models(node)
    for one in found:
        views.show_own_model(screen, one)
    if not found:
        screen.say(f"No plan was approved here yet. Next: medveil node approve {named(folder)}")
    raise typer.Exit(1 if any(one.alarm is not None for one in found) else 0)


@app.command()
def heads(
    export: Annotated[
        Path | None, typer.Option(help="Write all that is kept into a file, for the admin or the auditor.")
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="NUMBER:HASH as the admin read it out: take an alarm away, go on there."),
    ] = None,
    new_key: Annotated[
        str, typer.Option(help="With --accept: fingerprint of the admin key, if it is to be another one.")
    ] = "",
    folder: Folder = DEFAULT,
) -> None:
    """Show what this node has seen of the aggregator's audit log, and whether it was ever contradicted."""
    node = node_in(folder)
    from hospital_node import evidence, views

    if accept is not None:
        evidence.accept_head(node, accept, new_key=new_key)
    if export is not None:
        evidence.export_heads(node, export)
    seen = evidence.seen_log(node)
    views.show_seen_log(screen, seen)
    raise typer.Exit(0 if seen.alarm is None else 1)
