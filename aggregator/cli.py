"""``medveil aggregator …``: what the consortium's admin types."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aggregator import settings as configuration
from aggregator.blobs import Blobs
from aggregator.settings import Settings
from aggregator.store import Store
from aggregator.tls import make_certificates
from medveil.errors import BadFile, Error
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.log import get_logger, set_up
from medveil.plan import Member, Plan
from medveil.study import read_study

app = typer.Typer(help="For the consortium's admin: run the aggregator, enrol hospitals, open studies.")
study = typer.Typer(help="Create studies and watch them.")
app.add_typer(study, name="study")
console = Console(highlight=False, soft_wrap=True)
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The aggregator's folder.")]
DEFAULT = Path("aggregator-data")
TOKEN_HOURS = 72.0


class NoHospitals(Error):
    """A plan needs enrolled hospitals."""

    code = "no-hospitals"

    def __init__(self, *, names: str) -> None:
        super().__init__(
            what=f"These hospitals are not enrolled: {names}.",
            meaning="A plan names exact keys, so every hospital must be enrolled before it is written.",
            remedy="Hand out tokens with 'medveil aggregator enroll-token NAME' and wait for the nodes.",
        )


@app.callback()
def _private_files() -> None:
    """For the consortium's admin: run the aggregator, enrol hospitals, open studies."""
    os.umask(0o077)


@app.command()
def init(
    folder: Folder = DEFAULT,
    name: Annotated[list[str], typer.Option(help="DNS name or address of this machine; repeatable.")] = [  # noqa: B006
        "localhost",
        "127.0.0.1",
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8443,
) -> None:
    """Make the aggregator's folder: database, admin key, TLS certificate."""
    set_up_aggregator(Settings(folder, host, port, tuple(name)))
    console.print(f"The aggregator is ready in {folder}.")
    console.print(f"  For the hospitals:  {folder / 'tls' / 'ca.pem'}  (they pin it)")
    console.print(f"  Next:               medveil aggregator serve --folder {folder}")


def set_up_aggregator(settings: Settings) -> None:
    """What ``init`` does. Raises: KeyFileExists if the folder already holds an aggregator."""
    Identity.generate("admin").save(settings.folder / "admin.key")
    settings.save()
    make_certificates(settings.folder / "tls", settings.names)
    Store(settings.folder / "aggregator.db").close()


@app.command()
def serve(folder: Folder = DEFAULT) -> None:
    """Run the aggregator until it is told to stop."""
    import uvicorn

    from aggregator.app import create_app

    set_up()
    settings = configuration.load(folder)
    get_logger().info("aggregator.starting", port=settings.port)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        ssl_certfile=str(folder / "tls" / "server.pem"),
        ssl_keyfile=str(folder / "tls" / "server.key"),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


@app.command("enroll-token")
def enroll_token(
    name: Annotated[str, typer.Argument(help="The hospital's (or researcher's) name.")],
    folder: Folder = DEFAULT,
    researcher: Annotated[bool, typer.Option(help="For a researcher: may read, takes no part.")] = False,
) -> None:
    """Print a one-time enrolment token, valid for three days."""
    token = new_token(configuration.load(folder), name, "researcher" if researcher else "hospital")
    typer.echo(token)


def new_token(settings: Settings, name: str, role: str) -> str:
    """Make a one-time token and keep its hash."""
    token = secrets.token_hex(24)
    store = Store(settings.folder / "aggregator.db")
    store.add_token(token, name=name, role=role, expires=time.time() + TOKEN_HOURS * 3600)
    store.close()
    return token


@study.command("create")
def study_create(
    file: Annotated[Path, typer.Argument(help="The study file (study.toml).")],
    initial: Annotated[Path, typer.Option(help="The initial model written with it.")],
    folder: Folder = DEFAULT,
    hospital: Annotated[
        list[str], typer.Option(help="A hospital of the roster; repeatable. All enrolled ones if left out.")
    ] = [],  # noqa: B006
) -> None:
    """Turn a study file into a plan: study and roster, signed by the admin, waiting for approvals."""
    plan = create_plan(configuration.load(folder), file, initial, hospital)
    console.print(f"Plan {plan.id}")
    console.print(f"  Read this to each hospital by telephone:  {fingerprint(plan.hash)}")
    table = Table("index", "hospital", "key fingerprint")
    for member in plan.roster:
        table.add_row(str(member.index), member.name, fingerprint(member.key))
    console.print(table)
    console.print(f"It starts when {plan.approvals_needed} hospitals have approved it.")


def create_plan(settings: Settings, file: Path, initial: Path, hospitals: list[str]) -> Plan:
    """What ``study create`` does.

    Raises: BadFile, BadStrategy, NoHospitals, WrongInitialModel, AlreadyThere.
    """
    from aggregator.versions import first_version
    from medveil.strategies import strategy_of
    from privacy.dp.policy import check_policy

    parsed = read_study(file)
    check_policy(parsed)
    strategy_of(parsed)
    store = Store(settings.folder / "aggregator.db")
    try:
        enrolled = {n: p for n, p in store.parties().items() if p.role == "hospital"}
        names = hospitals or sorted(enrolled)
        missing = sorted(set(names) - set(enrolled))
        if missing or not names:
            raise NoHospitals(names=", ".join(missing) or "none at all")
        roster = tuple(
            Member(index=i, name=n, public_key=enrolled[n].public_key.hex()) for i, n in enumerate(names, 1)
        )
        try:
            plan = Plan(study=parsed, roster=roster)
            data = initial.read_bytes()
        except (ValueError, OSError) as error:
            raise BadFile(name=file.name, problem=str(error)) from error
        admin = Identity.load("admin", settings.folder / "admin.key")
        first = first_version(plan, data, Blobs(settings.folder))
        store.add_plan(plan, admin.sign("create-plan", plan.hash), first, time.time())
        return plan
    finally:
        store.close()


@study.command("status")
def study_status(folder: Folder = DEFAULT) -> None:
    """Print every plan with its rounds, survivors and failures."""
    store = Store(configuration.load(folder).folder / "aggregator.db")
    for plan, _, finished in store.plans():
        approved = store.approvals(plan.id)
        state = "finished" if finished else "running" if len(approved) >= plan.approvals_needed else "waiting"
        console.print(f"[bold]{plan.study.name}[/]  {state}  plan {plan.id[:16]}")
        console.print(f"  approved by {', '.join(sorted(approved)) or 'nobody yet'}")
        table = Table("round", "attempt", "kind", "outcome", "in the sum", "seconds", "metric", "model")
        for row in store.attempts(plan.id):
            report = row["report"] or {}
            metric, survivors = report.get("metric"), report.get("survivors", [])
            everybody = len(survivors) == len(plan.roster)
            table.add_row(
                str(row["round"]),
                str(row["attempt"]),
                row["kind"],
                report.get("reason") or row["outcome"] or "open",
                "all" if everybody else ", ".join(survivors),
                f"{report.get('seconds', 0):.1f}",
                "" if metric is None else f"{metric:.3f}",
                (report.get("model") or "")[:12],
            )
        console.print(table)
    store.close()
