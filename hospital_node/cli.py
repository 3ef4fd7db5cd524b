"""``medveil node …``: what a hospital's operator types."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from hospital_node.cli_cohort import check_images, cohort
from hospital_node.cli_ledger import DEFAULT, Folder, ledger
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.bounds import MOST_PARAMETERS, MOST_STEPS, MOST_VOXELS
from medveil.errors import BadOption, Error
from medveil.handed import problem_of
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.log import set_up
from medveil.private_files import keep_private
from medveil.shown import NotConfirmed, Screen, can_ask, fault, plain, strong
from medveil.spoken import means

if TYPE_CHECKING:
    from medveil.plan import Plan
    from medveil_imaging.sources.site import SiteData

app = typer.Typer(
    help="For a hospital's operator: connect this hospital, check its images, approve, run.",
    callback=keep_private,
)
app.add_typer(ledger, name="ledger")
app.command()(cohort)
screen = Screen()


@app.command()
def init(
    name: Annotated[str, typer.Option(help="This hospital's name, e.g. st-marys.")],
    aggregator: Annotated[
        str, typer.Option(help="Address of the aggregator, e.g. https://fl.example.org:8443")
    ],
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.csv and the images. Only read.")],
    dataset: Annotated[
        str | None, typer.Option(help="A name of this set of patients; the hospital's without.")
    ] = None,
    epsilon_cap: Annotated[
        float, typer.Option(help="Most that any patient here may ever spend, over all studies.")
    ] = 10.0,
    delta_cap: Annotated[
        float | None,
        typer.Option(help="Largest delta at which epsilon is counted here; min(1e-5, 1/(10 n)) without it."),
    ] = None,
    allow_no_privacy: Annotated[
        bool, typer.Option(help="Also take part in studies without differential privacy.")
    ] = False,
    count_joint_noise: Annotated[
        bool, typer.Option(help="Count the other hospitals' share of a joint noise towards the cap.")
    ] = False,
    min_hospitals: Annotated[
        int, typer.Option(help="Fewest hospitals in a sum that this one takes part in.")
    ] = 3,
    min_colluders: Annotated[
        int, typer.Option(help="Fewest dishonest hospitals, beside the aggregator, that a plan must resist.")
    ] = 0,
    max_parameters: Annotated[int, typer.Option(help="Most parameters of a model.")] = MOST_PARAMETERS,
    max_steps: Annotated[int, typer.Option(help="Most training steps of a whole study here.")] = MOST_STEPS,
    max_voxels: Annotated[int, typer.Option(help="Most pixels or voxels of an image.")] = MOST_VOXELS,
    memory_gb: Annotated[
        float | None, typer.Option(help="Most memory a plan may take, in GB; 90 % of the machine without it.")
    ] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Make this node's folder: identity key, settings, pinned authority."""
    from hospital_node.operator import certificates_in, set_up_node

    try:
        settings = NodeSettings(
            name=name,
            aggregator=aggregator.rstrip("/"),
            data=data.absolute(),
            dataset=dataset or name,
            policy=Policy(
                epsilon_cap=epsilon_cap,
                delta_cap=delta_cap,
                allow_no_privacy=allow_no_privacy,
                count_joint_noise=count_joint_noise,
                min_hospitals=min_hospitals,
                min_colluders=min_colluders,
                max_parameters=max_parameters,
                max_steps=max_steps,
                max_voxels=max_voxels,
                memory_gb=memory_gb,
            ),
        )
    except ValidationError as error:
        raise BadOption(problem=problem_of(error)) from error
    node = set_up_node(folder, settings, authority)
    identity = Identity.load(name, node.key)
    screen.say(f"The node of {name} is ready in {folder}.")
    screen.say("Compare both by telephone:")
    screen.say(f"  Its key's fingerprint:  {fingerprint(identity.public_key)}")
    for one in certificates_in(node.authority.read_bytes()):
        screen.say(f"  The aggregator's ca:    {fingerprint(one)}")
    screen.say(f"Next: medveil node enroll TOKEN --folder {quote(str(folder))}")


@app.command()
def enroll(
    token: Annotated[str, typer.Argument(help="The one-time token that the admin gave you.")],
    folder: Folder = DEFAULT,
) -> None:
    """Make this hospital known to the aggregator."""
    node = Node.load(folder)
    asyncio.run(_enrol(node, token))
    screen.say(f"{node.settings.name} is enrolled. Next:")
    screen.say(f"  medveil node check --folder {quote(str(folder))}     then")
    screen.say(f"  medveil node approve --folder {quote(str(folder))}")


async def _enrol(node: Node, token: str) -> None:
    from hospital_node.operator import PATIENCE_S
    from hospital_node.transport import Transport

    identity = Identity.load(node.settings.name, node.key)
    async with Transport(
        node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S
    ) as transport:
        await transport.enrol(token)


@app.command()
def certificate(folder: Folder = DEFAULT) -> None:
    """Get a TLS client certificate, where the aggregator asks for them; a running node renews it."""
    from hospital_node.certificate import get_certificate
    from hospital_node.operator import PATIENCE_S
    from hospital_node.transport import Transport

    node = Node.load(folder)
    identity = Identity.load(node.settings.name, node.key)

    async def ask() -> None:
        line = Transport(node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S)
        async with line as transport:
            await get_certificate(node, transport)

    asyncio.run(ask())
    screen.say(f"The certificate is in {folder / 'client.pem'}.")


@app.command()
def check(
    study: Annotated[
        Path | None, typer.Option(help="A study file to check the images against; offered plans without it.")
    ] = None,
    connection: Annotated[bool, typer.Option(help="Also ask the aggregator for the plans.")] = True,
    folder: Folder = DEFAULT,
) -> None:
    """Read every image as a study would and list what cannot be used, why, and what to do."""
    from hospital_node import operator
    from medveil.study import read_study

    node = Node.load(folder)
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
    from hospital_node import operator, views

    node = Node.load(folder)
    if plan:
        _approve_shown(node, plan, patients, yes=yes)
        screen.say("Approved. The node hands it in, once it has read the images. Next:")
        screen.say(f"  medveil node run --folder {quote(str(folder))}")
        return
    found = asyncio.run(operator.on_offer(node))
    views.show_outdated(screen, operator.outdated(node))
    for one in found:
        if isinstance(one, operator.Standing):
            operator.remember_shown(node, one)
            views.show_plan(screen, one, node.settings)
        else:
            views.show_unreadable(screen, one)
    if not found:
        screen.say("No plan is on offer.")


def _approve_shown(node: Node, typed: list[str], patients: int | None, *, yes: bool) -> None:
    """Raises: NotAFingerprint, NoSuchPlan, NotConfirmed, PlanRefused and what else speaks against it."""
    from hospital_node import operator, views

    plan = operator.shown_plan(node, typed)
    standing = operator.standing(node, plan)
    if standing.patients is not None:
        number = operator.declarable(plan, standing.patients, patients)
        standing = replace(standing, patients=replace(standing.patients, proposed=number))
    views.show_plan(screen, standing, node.settings)
    if standing.refusal is not None:
        raise standing.refusal
    question = (
        "Has the admin read these twelve words to you, and does this hospital approve exactly this plan?"
    )
    if not yes and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    shown = standing.patients
    operator.approve_plan(node, plan, patients=patients if shown is None else shown.declared)


@app.command()
def run(folder: Folder = DEFAULT) -> None:
    """Work on the approved plans until stopped (Ctrl-C, SIGTERM)."""
    set_up()
    import signal

    from hospital_node import operator
    from hospital_node.certificate import keep_certificate
    from hospital_node.plan_queue import run as work
    from medveil.log import get_logger
    from medveil_imaging.sources.site import read_site

    node, log = Node.load(folder), get_logger()
    for plan_id in operator.outdated(node):
        log.error("plan.outdated", plan=plan_id, code="plan-refused")

    def read(plan: Plan) -> SiteData:
        site = read_site(node.settings.data, plan.study)
        refused = sum(p.severity == "error" for p in site.problems)
        log.info("images.read", plan=plan.id, count=refused, reason="count is the number of refused items")
        return site

    async def until_stopped() -> None:
        task = asyncio.ensure_future(work(node, read))
        renewing = asyncio.ensure_future(keep_certificate(node))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        finally:
            renewing.cancel()

    try:
        asyncio.run(until_stopped())
    except asyncio.CancelledError:
        log.info("node.stopped")
        sys.stderr.flush()
        os._exit(0)  # a training step in hand is not waited for; its charge stands


class NoSuchModel(Error):
    """The operator named a plan that was never approved here."""

    code = "no-such-model"

    def __init__(self) -> None:
        super().__init__(
            what="No approved plan has this fingerprint.",
            meaning="Nothing was changed.",
            remedy="Run 'medveil node lineage' without it to see the plans.",
        )


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
    from hospital_node import views
    from hospital_node.journal import Journal
    from hospital_node.lineage import load_version, version_path

    node = Node.load(folder)
    journal = Journal(node.journal)
    plans = [plan for plan, _ in journal.approved()]
    if start_again is not None:
        chosen = [p for p in plans if means([start_again], p.hash)]
        if not chosen:
            raise NoSuchModel()
        version_path(node.models, chosen[0]).unlink(missing_ok=True)
        journal.clear_alarm(chosen[0].id)
    alarms = [journal.alarm(plan.id) for plan in plans]
    for plan, alarm in zip(plans, alarms, strict=True):
        found = load_version(version_path(node.models, plan), plan.study)
        own = "none yet" if found is None else f"version {found.version}, {found.model.hex()}"
        rows = [*views.fingerprint_rows(plan), ("own model", own)]
        if alarm is not None:
            rows += [
                (fault("ALARM"), f"{plain(alarm.reason)} (code {alarm.code})"),
                ("", f"own version {alarm.version}  {alarm.computed}"),
                ("", f"named model    {alarm.claimed}"),
            ]
        for start in journal.unsettled(plan.id, 0 if found is None else found.round):
            told = "its masked vector is out, and its sum neither published nor given up"
            rows.append(("waits for", f"attempt {start.key}: {told}"))
        screen.say(strong(plan.study.name))
        screen.fields(rows, width=views.WIDTH, indent=2)
    journal.close()
    raise typer.Exit(1 if any(alarms) else 0)


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
    from hospital_node.audit_witness import AuditWitness
    from hospital_node.journal import Journal

    node = Node.load(folder)
    journal = Journal(node.journal)
    seen = AuditWitness(journal)
    try:
        if accept is not None:
            seen.accept(accept, new_key=new_key)
        if export is not None:
            export.write_text(seen.export(node.settings.name))
        kept, newest, alarm = journal.heads.all(), journal.heads.newest(), journal.heads.alarm()
        history = seen.key_history()
    finally:
        journal.close()
    if newest is None:
        screen.say("No head of the aggregator's audit log has been seen yet.")
    else:
        screen.say(f"newest head  {newest.number}:{newest.hash.hex()}   ({len(kept)} kept)")
        pinned = fingerprint(newest.key) if newest.key else f"{newest.about}   (accepted, not seen yet)"
        screen.say(f"admin key    fingerprint {pinned}")
    for when, words in history:
        screen.say(f"             {time.strftime('%Y-%m-%d', time.localtime(when))}  {words}")
    if alarm is not None:
        screen.say(fault("ALARM"), f"       {alarm.about}")
        if alarm.hash:
            screen.say(f"             shown  {alarm.number}:{alarm.hash.hex()}")
            screen.say(f"             signed with a key of fingerprint {fingerprint(alarm.key)}")
    raise typer.Exit(0 if alarm is None else 1)
