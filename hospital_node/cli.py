"""``medveil node …``: what a hospital's operator types."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hospital_node.cli_ledger import DEFAULT, Folder, copied_ledger, ledger
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.errors import BadFile, Error
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.log import set_up
from medveil.plan import Plan, sign_approval

if TYPE_CHECKING:
    from medveil.study import Study
    from medveil_imaging.sources.manifest import SiteData

app = typer.Typer(help="For a hospital's operator: connect this hospital, check its images, approve, run.")
app.add_typer(ledger, name="ledger")
console = Console(highlight=False, soft_wrap=True)
PATIENCE_S = 5.0
"""How long a command that a person waits for tries to reach the aggregator."""


@app.callback()
def _private_files() -> None:
    """For a hospital's operator: connect this hospital, check its images, approve, run."""
    os.umask(0o077)


@app.command()
def init(
    name: Annotated[str, typer.Option(help="This hospital's name, e.g. st-marys.")],
    aggregator: Annotated[
        str, typer.Option(help="Address of the aggregator, e.g. https://fl.example.org:8443")
    ],
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")],
    data: Annotated[Path, typer.Option(help="Folder with manifest.csv and the images. Only read.")],
    dataset: Annotated[
        str | None, typer.Option(help="Lasting name of this set of patients; budgets are kept under it.")
    ] = None,
    epsilon_cap: Annotated[
        float, typer.Option(help="Most that any patient here may ever spend, over all studies.")
    ] = 10.0,
    allow_no_privacy: Annotated[
        bool, typer.Option(help="Also take part in studies without differential privacy.")
    ] = False,
    count_joint_noise: Annotated[
        bool, typer.Option(help="Count the other hospitals' share of a joint noise towards the cap.")
    ] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Make this node's folder: identity key, settings, pinned authority."""
    try:
        settings = NodeSettings(
            name=name,
            aggregator=aggregator.rstrip("/"),
            data=data.absolute(),
            dataset=dataset or name,
            policy=Policy(
                epsilon_cap=epsilon_cap,
                allow_no_privacy=allow_no_privacy,
                count_joint_noise=count_joint_noise,
            ),
        )
    except ValueError as error:
        raise BadFile(name="the node's settings", problem=str(error)) from error
    node = set_up_node(folder, settings, authority)
    identity = Identity.load(name, node.key)
    console.print(f"The node of [bold]{name}[/] is ready in {folder}.")
    console.print(f"  Its key's fingerprint:  {fingerprint(identity.public_key)}  (compare by telephone)")
    console.print(f"  Next:                   medveil node enroll TOKEN --folder {folder}")


def set_up_node(folder: Path, settings: NodeSettings, authority: Path) -> Node:
    """What ``init`` does. Raises: BadFile, KeyFileExists."""
    node = Node(folder, settings)
    try:
        certificate = authority.read_bytes()
    except OSError as error:
        raise BadFile(name=str(authority), problem="it cannot be read") from error
    Identity.generate(settings.name).save(node.key)
    node.authority.write_bytes(certificate)
    node.save()
    return node


@app.command()
def enroll(
    token: Annotated[str, typer.Argument(help="The one-time token that the admin gave you.")],
    folder: Folder = DEFAULT,
) -> None:
    """Make this hospital known to the aggregator."""
    node = Node.load(folder)
    asyncio.run(_enrol(node, token))
    console.print(f"{node.settings.name} is enrolled. Next:")
    console.print(f"  medveil node check --folder {folder}     then")
    console.print(f"  medveil node approve --folder {folder}")


async def _enrol(node: Node, token: str) -> None:
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
    from hospital_node.transport import Transport

    node = Node.load(folder)
    identity = Identity.load(node.settings.name, node.key)

    async def ask() -> None:
        line = Transport(node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S)
        async with line as transport:
            await get_certificate(node, transport)

    asyncio.run(ask())
    console.print(f"The certificate is in {folder / 'client.pem'}.")


@app.command()
def check(
    study: Annotated[
        Path | None, typer.Option(help="A study file to check the images against; offered plans without it.")
    ] = None,
    connection: Annotated[bool, typer.Option(help="Also ask the aggregator for the plans.")] = True,
    folder: Folder = DEFAULT,
) -> None:
    """Read every image as a study would and list what cannot be used, why, and what to do."""
    from medveil.study import read_study

    node = Node.load(folder)
    if study is not None:
        studies = [read_study(study)]
    else:
        studies = [p.study for p in asyncio.run(_offered(node))] if connection else []
        if not studies:
            console.print("There is no plan to check against yet. Name a study: --study study.toml")
            raise typer.Exit(1)
    worst = max(check_images(node, s) for s in studies)
    raise typer.Exit(worst)


def check_images(node: Node, study: Study) -> int:
    """Print what is usable and what is not; the exit status: 0 fine, 1 something refused, 4 cannot train."""
    from hospital_node.splits import Splits
    from medveil_imaging.sources.manifest import read_site
    from privacy.dp.policy import study_events

    site, moved = read_site(node.settings.data, study), 0
    if study.privacy.kind != "none":
        site, moved = Splits(node.splits).keep(
            site, dataset=node.settings.dataset, splits=study_events(study), note=False
        )
    console.print(f"[bold]{study.name}[/]: {study.task} of {study.transforms.profile} images")
    table = Table("split", "patients", "images")
    for split, patients in (("train", site.train), ("val", site.val), ("test", site.test)):
        table.add_row(split, str(len(patients)), str(sum(len(p) for p in patients)))
    console.print(table)
    _show_problems(site)
    refused = [p for p in site.problems if p.severity == "error"]
    if moved:
        console.print(
            f"[yellow]left out[/] {moved} patient(s) were in another split in an earlier study. A patient "
            "keeps the first split for life: write it into manifest.csv again."
        )
    if not site.train:
        console.print("[bold red]problem[/]  There is no patient to train on.")
        return 4
    if refused:
        console.print(f"{len(refused)} item(s) cannot be used and are left out; the rest trains.")
        return 1
    console.print("[bold green]PASSED[/]   Everything can be used.")
    return 0


def _show_problems(site: SiteData) -> None:
    if not site.problems:
        return
    table = Table("", "row", "file", "what is wrong", "what to do", "code")
    for p in site.problems:
        mark = "[red]refused[/]" if p.severity == "error" else "[yellow]warning[/]"
        table.add_row(mark, "" if p.row is None else str(p.row), p.file, p.reason, p.remedy, p.code)
    console.print(table)


async def _offered(node: Node) -> list[Plan]:
    from hospital_node.governance import read_offer
    from hospital_node.heads import Heads
    from hospital_node.store import Journal
    from hospital_node.transport import Transport

    identity = Identity.load(node.settings.name, node.key)
    async with Transport(
        node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S
    ) as transport:
        answer = await transport.offers()
    journal = Journal(node.journal)
    try:
        pinned = Heads(journal).key_after(answer.head)
    finally:
        journal.close()
    return [read_offer(offer, pinned) for offer in answer.offers]


class NoSuchPlan(Error):
    """The operator named a plan that is not on offer."""

    code = "no-such-plan"

    def __init__(self) -> None:
        super().__init__(
            what="No plan with this fingerprint is on offer.",
            meaning="Nothing was approved. Another fingerprint is another plan, or another roster.",
            remedy="Run 'medveil node approve' without it to see the plans; telephone the admin.",
        )


@app.command()
def approve(
    plan: Annotated[
        str | None,
        typer.Argument(help="The plan's fingerprint (or full hash) as the admin read it to you."),
    ] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Show the plans on offer in plain words; with a fingerprint, approve that one."""
    node = Node.load(folder)
    offered = asyncio.run(_offered(node))
    if plan is None:
        for one in offered:
            describe(one, node)
        if not offered:
            console.print("No plan is on offer.")
        return
    chosen = [p for p in offered if plan in (p.id, fingerprint(p.hash))]
    if not chosen:
        raise NoSuchPlan()
    approve_plan(node, chosen[0])
    console.print(f"Approved. Next: medveil node run --folder {folder}")


def approve_plan(node: Node, plan: Plan) -> None:
    """Check a plan against this hospital's policy and budget, sign it and keep it; the node hands it in.

    Raises: PlanRefused, UnderstatedEpsilon, BudgetExceeded.
    """
    from hospital_node.store import Journal

    identity = Identity.load(node.settings.name, node.key)
    _allowed(plan, node, identity)
    journal = Journal(node.journal)
    journal.approve(plan, sign_approval(plan, identity))
    journal.close()


def _allowed(plan: Plan, node: Node, identity: Identity) -> None:
    """The policy by itself, and the budget together with every study before."""
    from hospital_node.governance import check_plan, register
    from hospital_node.ledger import Ledger

    check_plan(plan, node.settings, identity)
    with copied_ledger(node) as path, Ledger.open(path) as book:
        register(book, plan, node.settings)


def describe(plan: Plan, node: Node) -> None:
    """A plan in plain words: what, with whom, at what price."""
    from privacy.dp.policy import cost, study_events

    study, identity = plan.study, Identity.load(node.settings.name, node.key)
    console.print(f"[bold]{study.name}[/]   fingerprint {fingerprint(plan.hash)}")
    if study.description:
        console.print(f"  {study.description}")
    console.print(
        f"  learns     {study.task} ({', '.join(study.classes)}) with {study.model.name}, "
        f"{study.trained_weights:,} parameters, {study.training.rounds} rounds"
    )
    mean = ", in round 1 the noised mean of the patients' features" if study.centred else ""
    console.print(f"  leaves     masked sums only: model updates and evaluation counts{mean}")
    if study.privacy.kind == "none":
        console.print("  privacy    [bold]none[/]: the sum of all hospitals is not noised")
    else:
        console.print(
            f"  privacy    epsilon {study.privacy.epsilon:g}, delta {study.privacy.delta:g} per patient; "
            f"the cap here is {node.settings.policy.epsilon_cap:g}"
        )
        noises = ", ".join(
            f"{split.value} {event.noise_multiplier:.3g} x {event.steps}"
            for split, event in study_events(study).items()
        )
        console.print(f"             own noise and releases by patients: {noises}")
        if study.privacy.despite_noise:
            console.print(
                "             [bold yellow]its author insists[/]: the noise exceeds what can be learned"
            )
        if study.privacy.kind == "joint":
            alone = cost(study).epsilon_local
            console.print(
                f"             counts on the noise of {study.privacy.honest_hospitals} hospitals; "
                f"epsilon {alone:.2f} if no other hospital adds its own"
            )
    for member in plan.roster:
        own = "  (this hospital)" if member.name == node.settings.name else ""
        console.print(f"  with       {member.name}  key {fingerprint(member.key)}{own}")
    try:
        _allowed(plan, node, identity)
        console.print(f"  [green]allowed[/]    approve with: medveil node approve {fingerprint(plan.hash)}")
    except Error as error:
        console.print(f"  [red]refused[/]    {error.what} {error.remedy}")


@app.command()
def run(folder: Folder = DEFAULT) -> None:
    """Work on the approved plans until stopped (Ctrl-C, SIGTERM)."""
    set_up()
    import signal

    from hospital_node.agent import run as work
    from hospital_node.certificate import keep_certificate
    from medveil.log import get_logger
    from medveil_imaging.sources.manifest import read_site

    node, log = Node.load(folder), get_logger()

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
        typer.Option(help="Fingerprint of a plan: take its alarm away and check its models from the first."),
    ] = None,
    folder: Folder = DEFAULT,
) -> None:
    """Show how far this node's own copy of each plan's model has come, and what it has refused."""
    from hospital_node.lineage import head_path, load_head
    from hospital_node.store import Journal

    node = Node.load(folder)
    journal = Journal(node.journal)
    plans = [plan for plan, _ in journal.approved()]
    if start_again is not None:
        chosen = [p for p in plans if start_again in (p.id, fingerprint(p.hash))]
        if not chosen:
            raise NoSuchModel()
        head_path(node.models, chosen[0]).unlink(missing_ok=True)
        journal.clear_alarm(chosen[0].id)
    alarms = [journal.alarm(plan.id) for plan in plans]
    journal.close()
    for plan, alarm in zip(plans, alarms, strict=True):
        head = load_head(head_path(node.models, plan), plan.study)
        console.print(f"[bold]{plan.study.name}[/]   fingerprint {fingerprint(plan.hash)}")
        own = "none yet" if head is None else f"version {head.version}, {head.model.hex()}"
        console.print(f"  own model  {own}")
        if alarm is not None:
            console.print(f"  [bold red]ALARM[/]      {alarm.reason} (code {alarm.code})")
            console.print(f"             own version {alarm.version}  {alarm.computed}")
            console.print(f"             named model    {alarm.claimed}")
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
    from hospital_node.heads import Heads
    from hospital_node.store import Journal

    node = Node.load(folder)
    journal = Journal(node.journal)
    seen = Heads(journal)
    try:
        if accept is not None:
            seen.accept(accept, new_key=new_key)
        if export is not None:
            export.write_text(seen.export(node.settings.name))
        kept, newest, alarm = journal.heads(), journal.newest_head(), journal.head_alarm()
        history = seen.key_history()
    finally:
        journal.close()
    if newest is None:
        console.print("No head of the aggregator's audit log has been seen yet.")
    else:
        console.print(f"newest head  {newest.number}:{newest.hash.hex()}   ({len(kept)} kept)")
        pinned = fingerprint(newest.key) if newest.key else f"{newest.about}   (accepted, not seen yet)"
        console.print(f"admin key    fingerprint {pinned}")
    for when, words in history:
        console.print(f"             {time.strftime('%Y-%m-%d', time.localtime(when))}  {words}")
    if alarm is not None:
        console.print(f"[bold red]ALARM[/]        {alarm.about}")
        if alarm.hash:
            console.print(f"             shown  {alarm.number}:{alarm.hash.hex()}")
            console.print(f"             signed with a key of fingerprint {fingerprint(alarm.key)}")
    raise typer.Exit(0 if alarm is None else 1)
