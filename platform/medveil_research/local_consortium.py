"""A whole consortium on one machine: the aggregator and every hospital as processes of their own.

Nothing here is a short cut through the product: the parts are set up with the same functions as the
commands, talk HTTPS over loopback, and read real files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aggregator.admin import create_plan, new_token, set_up_aggregator
from aggregator.settings import Settings
from hospital_node.enrolment import set_up_node
from hospital_node.ledger import Ledger
from hospital_node.operator import approve_plan
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.transport import Transport
from medveil.errors import Error
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.study import Study
from medveil_research.client import Client, NoAnswer
from medveil_research.enrolment import enrol
from medveil_research.ports import free_port
from medveil_research.processes import Event, Process
from medveil_research.results import Spent
from medveil_research.sites import Site
from medveil_research.study_file import write_study

START_LIMIT_S = 60.0
RESEARCHER = "researcher"
DEADLINES = {
    "advertise_s": 90.0,
    "share_s": 90.0,
    "train_s": 1800.0,
    "upload_s": 120.0,
    "agree_s": 60.0,
    "unmask_s": 60.0,
    "silence_s": 12.0,
}
"""Shorter than a real study's: on one machine a hospital that is silent for 12 s is gone."""


class ProcessDied(Error):
    """A process ended that should not have."""

    code = "process-died"

    def __init__(self, *, name: str, status: int, lines: list[str], log: Path) -> None:
        tail = "\n  ".join(lines[-6:])
        super().__init__(
            what=f"{name} ended with status {status}. Its last lines:\n  {tail}\n",
            meaning="The study cannot go on as planned.",
            remedy=f"Its whole log is in {log}.",
        )


class LocalConsortium:
    """An aggregator and its hospitals. Leaving the ``with`` block ends every process.

    Args:
        folder: everything is kept under it. heard: called with (who, event) for each log line.
    """

    def __init__(self, folder: Path, sites: list[Site], heard: Callable[[str, Event], None]) -> None:
        self.folder, self.sites, self._heard = folder, sites, heard
        self._settings = Settings(folder / "aggregator", port=free_port(), names=("127.0.0.1", "localhost"))
        self._processes: dict[str, Process] = {}
        self._authority = self._settings.folder / "tls" / "ca.pem"
        self._nodes: dict[str, Node] = {}
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def researcher(self) -> Path:
        """The folder of the researcher to whom the study is open."""
        return self.folder / RESEARCHER

    @property
    def client(self) -> Client:
        """The researcher's connection, once the consortium is open."""
        assert self._client is not None  # open() comes first
        return self._client

    def open(self, study: Study, initial: bytes) -> Plan:
        """Set everything up and start it: aggregator, enrolment, plan, approvals, nodes.

        Raises: ProcessDied if the aggregator does not come up; what the set-up functions raise.
        """
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        set_up_aggregator(self._settings)
        self._start("aggregator", ["aggregator", "serve", "--folder", str(self._settings.folder)])
        self._wait_for_aggregator()
        token = new_token(self._settings, RESEARCHER, "researcher")
        researcher = enrol(
            self.researcher,
            name=RESEARCHER,
            aggregator=self._settings.url,
            authority=self._authority,
            token=token,
        )
        self._client = researcher.client()
        for site in self.sites:
            self._nodes[site.name] = self._enrolled(site, study)
        write_study(self.folder / "study", study, initial)
        files = self.folder / "study"
        names = [s.name for s in self.sites]
        first = files / "initial.safetensors"
        plan = create_plan(self._settings, files / "study.toml", first, names, [RESEARCHER])
        for node in self._nodes.values():
            approve_plan(node, plan)
        for name, node in self._nodes.items():
            self._start(name, ["node", "run", "--folder", str(node.folder)])
        return plan

    def kill(self, name: str) -> None:
        """End the process of a hospital (or of "aggregator") at once."""
        self._processes[name].kill()

    def restart(self, name: str) -> None:
        """Start a killed process again on the same folder, as a service manager would."""
        killed = self._processes[name]
        killed.wait()  # its log is read to the end before another process writes to it
        self._processes[name] = killed.again()

    def check(self) -> None:
        """Raises: ProcessDied if a process ended by itself."""
        for process in self._processes.values():
            status = process.exit_status
            if status is not None and not process.killed:
                log = self._log(process.name)
                raise ProcessDied(name=process.name, status=status, lines=list(process.last_lines), log=log)

    def spent(self, study: Study) -> dict[str, Spent]:
        """Both epsilons of each hospital, from its own ledger. The nodes must have been stopped."""
        if study.privacy.kind == "none":
            return dict.fromkeys(self._nodes, Spent(local=None, joint=None))
        found = {}
        for name, node in self._nodes.items():
            with Ledger.open(node.ledger) as ledger:
                found[name] = Spent(local=ledger.spent(joint=False), joint=ledger.spent())
        return found

    def stop(self) -> None:
        """End every process."""
        if self._client is not None:  # first, because an aggregator that ends waits for open connections
            self._client.__exit__(None, None, None)
            self._client = None
        for process in self._processes.values():
            process.stop()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _start(self, name: str, command: list[str]) -> None:
        self._processes[name] = Process(name, command, self._log(name), self._heard)

    def _wait_for_aggregator(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        with Client(self._settings.url, self._authority, Identity.generate(RESEARCHER)) as client:
            while not client.is_up():
                self.check()
                if time.monotonic() > deadline:
                    raise NoAnswer(reason="it did not start in time")
                time.sleep(0.1)

    def _enrolled(self, site: Site, study: Study) -> Node:
        private = study.privacy if study.privacy.kind != "none" else None
        settings = NodeSettings(
            name=site.name,
            aggregator=self._settings.url,
            data=site.folder.absolute(),
            dataset=site.name,
            policy=Policy(
                allow_no_privacy=study.privacy.kind == "none",
                count_joint_noise=study.privacy.counts_on_others,
                allow_site_figures=study.evaluation.per_site,
                epsilon_cap=10.0 if private is None else private.epsilon,
                delta_cap=None if private is None else private.delta,
            ),
        )
        node = set_up_node(self.folder / "nodes" / site.name, settings, self._authority)
        token = new_token(self._settings, site.name, "hospital")
        asyncio.run(_enrol(node, token))
        return node


async def _enrol(node: Node, token: str) -> None:
    identity = Identity.load(node.settings.name, node.key)
    async with Transport(
        node.settings.aggregator, node.authority, identity, proxy=node.settings.proxy
    ) as transport:
        await transport.enrol(token)
