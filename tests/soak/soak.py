"""A long run of real processes with random kills: ``make soak MINUTES=480``.

An aggregator and its standby on one database, four hospitals, and a line between them that is cut at any
moment. Study after study is played. One process after another is killed (SIGKILL) and started again; with
``--database postgresql`` the database is a PostgreSQL server of the soak's own, and dies like the others.
hospital-1 is spared, so that its memory and its open files can be watched for the whole run. Whatever a cut
loses is sent again by the nodes, so requests arrive twice and answers late. At the end every invariant is
checked that folders can show. Figures of the run are printed; the exit status is 0 only if all held.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from medveil_research.ports import free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import httpx2 as httpx
import sqlalchemy as sa

from aggregator.admin import create_plan, set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.settings import Settings
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.store import Store
from aggregator.witnesses import Witness, binding_heads
from cut_line import CutLine
from hospital_node.audit_witness import AuditWitness
from hospital_node.enrolment import set_up_node
from hospital_node.journal import Journal
from hospital_node.ledger import Ledger
from hospital_node.operator import approve_plan
from hospital_node.records import copied_ledger
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.steps import STEPS
from medveil.identity import FRESHNESS_S, Identity
from medveil.plan import Plan
from medveil.study import Deadlines
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.processes import Event, Process
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study
from postgres import INSTALL, Cluster, programs
from processes_watched import MIB, family, resident

HOSPITALS, PATIENTS, ROUNDS = 4, 10, 2
SPARED, DATABASE = "hospital-1", "postgresql"
DEADLINES = Deadlines(
    advertise_s=40.0, share_s=40.0, train_s=120.0, upload_s=40.0, agree_s=30.0, unmask_s=30.0, silence_s=10.0
)
STUDY_LIMIT_S = 600.0
"""Above the deadlines of every attempt that a study may take while its processes are being killed."""
WARM_UP_S = 60.0
MAX_GROWTH_MIB_PER_H, MAX_MORE_FILES, MAX_MIB_A_STUDY = 1.0, 60, 0.05
"""The slope is held against its mark after an hour of life: nonces fill a window of ten minutes first, and
the aggregator remembers about 15 kB of each plan and 7 kB of each round. Taking the lead opens some 35 files,
those of the workers among them."""
NONCES_S = 2.0 * FRESHNESS_S
EXPLAINED = frozenset({"attempt.missed", "attempt.refused", "round.failed", "offer.refused"})
ERRORS_OF_A_KILL = frozenset({"standby.failed", "lead.lost", "storage.failed"})


@dataclass
class Sample:
    """A process at one moment."""

    age_s: float
    rss_mib: float
    children_mib: float
    files: int


class Soak:
    """The consortium, its killer, and what was seen."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        kill_every_s: float,
        cut_every_s: float,
        cluster: Cluster | None = None,
    ) -> None:
        self.folder, self.draw, self.cluster = folder, random.Random(seed), cluster
        self.kill_every_s = kill_every_s
        self.line = CutLine(random.Random(seed + 1), cut_every_s)
        self.settings = Settings(
            folder / "aggregator",
            names=("127.0.0.1", "localhost"),
            database="" if cluster is None else cluster.url(cluster.database()),
        )
        self.ports = {"aggregator": free_port(), "standby": free_port()}
        self.processes: dict[str, Process] = {}
        self.started: dict[str, float] = {}
        self.nodes: dict[str, Node] = {}
        self.samples: dict[str, list[list[Sample]]] = {}
        self.events: Counter[str] = Counter()
        self.errors: list[str] = []
        self.kills: Counter[str] = Counter()
        self.studies: list[Plan] = []
        self.seconds: list[float] = []
        self.finished: set[str] = set()
        self.spent: dict[str, float] = {}
        self.listening = threading.Event()
        self.heads = self.entries = 0

    # ---- processes ---------------------------------------------------------------------------------------

    def hear(self, who: str, event: Event) -> None:
        """A log line of a process."""
        name = str(event.get("event"))
        why = event.get("code") or event.get("reason") or "" if name in EXPLAINED else ""
        self.events[f"{name} {why}".strip()] += 1
        if name == "aggregator.starting":
            self.listening.set()
        without_database = self.cluster is not None and event.get("reason") == StorageFailed.__name__
        if event.get("level") == "error" and name not in ERRORS_OF_A_KILL and not without_database:
            self.errors.append(f"{who}: {name} {event.get('code') or event.get('reason')}")

    def start(self, name: str) -> None:
        """A process, new or again."""
        if name in self.ports:
            replace(self.settings, port=self.ports[name]).save()  # one folder, two ports
            self.listening.clear()
            command = ["aggregator", "serve", "--folder", str(self.settings.folder)]
        else:
            command = ["node", "run", "--folder", str(self.nodes[name].folder)]
        log = self.folder / "logs" / f"{name}.log"
        self.processes[name] = Process(name, command, log, self.hear)
        self.started[name] = time.monotonic()
        self.samples.setdefault(name, []).append([])
        if name in self.ports:
            self.listening.wait(60)

    def kill(self, name: str) -> None:
        """As a power cut would; started again at once, as a service manager would."""
        if name == DATABASE:
            assert self.cluster is not None
            self.cluster.stop("immediate")
            self.kills[name] += 1
            time.sleep(self.draw.uniform(0, 6))
            self.cluster.start()
            return
        self.processes[name].kill()
        self.processes[name].wait()
        self.kills[name] += 1
        if self.draw.random() < 0.3:
            time.sleep(self.draw.uniform(0, 6))
        self.start(name)

    def set_up(self) -> None:
        """Everything but a study."""
        (self.folder / "logs").mkdir(parents=True)
        write_phantom_sites(self.folder / "sites", profile="xray", hospitals=HOSPITALS, patients=PATIENTS)
        set_up_aggregator(self.settings)
        self.line.start()
        store = open_store(self.settings)
        for number in range(1, HOSPITALS + 1):
            name = f"hospital-{number}"
            settings = NodeSettings(
                name=name,
                aggregator=f"https://127.0.0.1:{self.line.port}",
                data=self.folder / "sites" / name,
                dataset=name,
                policy=Policy(allow_no_privacy=True, epsilon_cap=1e6),
            )
            node = set_up_node(
                self.folder / "nodes" / name, settings, self.settings.folder / "tls" / "ca.pem"
            )
            key = Identity.load(name, node.key).public_key
            store.register.add_token(name, name=name, role="hospital", expires=time.time() + 600)
            store.register.enrol(name, name=name, public_key=key, now=time.time())
            self.nodes[name] = node
        store.close()
        for name in (*self.ports, *self.nodes):
            self.start(name)

    def follow_the_lead(self) -> None:
        """Point the line at the process that leads, as a proxy with a health check does."""
        for port in self.ports.values():
            with suppress(httpx.TransportError):
                if self.web.get(f"https://127.0.0.1:{port}/readyz", timeout=2.0).status_code == 200:
                    self.line.target = port
                    return

    # ---- studies -----------------------------------------------------------------------------------------

    def open_study(self) -> Plan:
        """The next study; every third one is private and is charged."""
        number = len(self.studies) + 1
        study, initial = new_study(
            StudyOptions(
                name=f"soak-{number}",
                task="classification",
                profile="xray",
                model="small_cnn",
                privacy="local" if number % 3 == 0 else "none",
                epsilon=50.0,
                hospitals=HOSPITALS,
                rounds=ROUNDS,
                size=(32, 32),
                patients_hint=PATIENTS,
                seed=number,
                deadlines=DEADLINES,
                anyway=True,
            )
        )
        files = self.folder / "studies" / study.name
        write_study(files, study, initial)
        plan = create_plan(
            self.settings, files / "study.toml", files / "initial.safetensors", sorted(self.nodes)
        )
        for node in self.nodes.values():
            approve_plan(node, plan)
        self.studies.append(plan)
        return plan

    def is_finished(self, plan: Plan) -> bool:
        """As the database says; both aggregators may be down."""
        return plan.id in {p.id for p, _, finished in self.reader.plans.all() if finished}

    def run(self, minutes: float) -> None:
        """Play studies until the time is over, and the last one to its end."""
        end = time.monotonic() + 60 * minutes
        context = ssl.create_default_context(cafile=str(self.settings.folder / "tls" / "ca.pem"))
        self.web = httpx.Client(verify=context)
        self.reader = Store(self.settings.where, Identity.load("admin", self.settings.folder / "admin.key"))
        victims = [name for name in self.processes if name != SPARED] + [DATABASE] * (
            self.cluster is not None
        )
        next_kill = time.monotonic() + 2 * self.kill_every_s
        while time.monotonic() < end:
            plan, opened = self.open_study(), time.monotonic()
            while not self.is_finished(plan):
                self.follow_the_lead()
                self.sample()
                now = time.monotonic()
                if now - opened > STUDY_LIMIT_S:
                    raise AssertionError(f"{plan.study.name} did not end in {STUDY_LIMIT_S:.0f} s")
                if self.kill_every_s and now > next_kill:
                    self.kill(self.draw.choice(victims))
                    next_kill = now + self.draw.expovariate(1 / self.kill_every_s)
                for name, process in self.processes.items():
                    assert process.running, f"{name} ended by itself: {list(process.last_lines)[-3:]}"
                time.sleep(0.5)
            self.seconds.append(time.monotonic() - opened)
            print(
                f"{plan.study.name}: {self.seconds[-1]:.0f} s, {sum(self.kills.values())} kills so far",
                flush=True,
            )
            self.check_spending()

    def sample(self) -> None:
        """Memory and open files of every process and its children."""
        for name, process in self.processes.items():
            life, pid = self.samples[name][-1], process._process.pid
            age = time.monotonic() - self.started[name]
            if not life or age - life[-1].age_s > 5:
                pids, files = family(pid), 0
                for member in pids:
                    with suppress(OSError):
                        files += len(list(Path(f"/proc/{member}/fd").iterdir()))
                children = sum(map(resident, pids[1:])) / MIB
                life.append(Sample(age, resident(pid) / MIB, children, files))

    def check_spending(self) -> None:
        """I8: what was spent never becomes less, whatever was killed."""
        for name, node in self.nodes.items():
            with copied_ledger(node) as path, Ledger.open(path, cohorts=node.cohorts) as ledger:
                spent = ledger.spent()
            assert spent >= self.spent.get(name, 0.0), f"{name} has forgotten what it spent"
            self.spent[name] = spent

    def stop(self) -> dict[str, float]:
        """SIGTERM to everybody; the seconds each took (R26)."""
        taken = {}
        for name, process in self.processes.items():
            asked = time.monotonic()
            process.stop()
            process.wait()
            taken[name] = time.monotonic() - asked
        return taken

    # ---- what must hold at the end -----------------------------------------------------------------------

    def check(self) -> None:
        """The invariants of the contract, as far as folders show them. Raises: AssertionError, Error."""
        store = open_store(self.settings)
        journals = {name: Journal(node.journal) for name, node in self.nodes.items()}
        try:
            self._check_studies(store, journals)
            self._check_log(store, journals)
        finally:
            store.close()
            for journal in journals.values():
                journal.close()
        for node in self.nodes.values():
            with Ledger.open(node.ledger) as ledger:
                ledger.verify()
        self._check_secrets()
        assert not self.errors, self.errors[:5]
        assert not [p for p in (self.settings.folder / "uploads").rglob("*") if p.is_file()]

    def _check_studies(self, store: Store, journals: dict[str, Journal]) -> None:
        for plan in self.studies:
            attempts, versions = (
                store.plans.attempts(plan.id),
                [v for v, _ in store.plans.versions(plan.id)],
            )
            assert store.plans.progress(plan.id).opened is None, (
                "an attempt is open after the end of its study"
            )  # I10
            done = [a for a in attempts if a.done]
            assert len({a.round for a in done}) == len(done), "a round has two results"  # I1
            assert all(len(a.survivors) >= 3 for a in done), "a sum of fewer than three"  # I3
            assert [v.number for v in versions] == list(range(len(versions)))  # I6
            assert all(v.parent == before.model for before, v in pairwise(versions))
            for name, journal in journals.items():
                alarm = journal.alarm(plan.id)
                assert alarm is None, (
                    f"{name} refuses a model: {alarm}"
                )  # I2: it has checked and made each one
                with journal._engine.connect() as tx:
                    rows = tx.execute(
                        sa.select(STEPS).where(STEPS.c.plan == plan.id, STEPS.c.step == "unmask")
                    )
                    rounds = [row.round for row in rows]
                assert len(set(rounds)) == len(rounds), f"{name} unmasked a round twice"  # I4

    def _check_log(self, store: Store, journals: dict[str, Journal]) -> None:
        """I7, and every head that a hospital has kept."""
        witnesses = []
        for name, journal in journals.items():
            assert journal.heads.alarm() is None, f"{name} doubts the log: {journal.heads.alarm()}"
            witnesses.append(Witness.model_validate_json(AuditWitness(journal).export(name)))
        heads, _ = binding_heads(witnesses, [], store.transactions.admin_key)
        store.log.verify(heads)
        self.heads = len(heads)
        self.entries = store.transactions.head.number

    def _check_secrets(self) -> None:
        """I9: no patient, no file name, no key in a log or at the aggregator."""
        canaries = {p.read_bytes() for p in self.folder.rglob("identity.key")}
        for manifest in (self.folder / "sites").glob("*/manifest.csv"):
            with open(manifest, newline="") as file:
                for row in csv.DictReader(file):
                    canaries |= {row["patient_id"].encode(), Path(row["image"]).name.encode()}
        places = [self.folder / "logs", self.folder / "aggregator"]
        for place in places if self.cluster is None else [*places, self.cluster.folder]:
            for path in (p for p in place.rglob("*") if p.is_file()):
                content = path.read_bytes()
                assert not [c for c in canaries if c in content], f"{path.name} tells too much"
                assert b"Traceback" not in content, f"a traceback in {path.name}"

    def growth(self) -> list[str]:
        """A line for each process: memory and open files in its longest life, after a warm-up.

        Raises: AssertionError if they grow.
        """
        lines = []
        for name, lives in self.samples.items():
            life = max(filter(None, lives), key=lambda samples: samples[-1].age_s, default=[])
            late = [s for s in life if s.age_s > WARM_UP_S]
            if len(late) < 10:
                lines.append(f"{name}: no life longer than {WARM_UP_S + 50:.0f} s")
                continue
            hours = (late[-1].age_s - late[0].age_s) / 3600
            assert late[-1].files <= late[0].files + MAX_MORE_FILES, f"{name} leaves files open"
            slope = _slope([s.age_s / 3600 for s in late], [s.rss_mib for s in late])
            full = [s for s in late if s.age_s > NONCES_S]
            if hours > 1:
                slope = _slope([s.age_s / 3600 for s in full], [s.rss_mib for s in full])
                allowed = MAX_GROWTH_MIB_PER_H + MAX_MIB_A_STUDY * len(self.seconds) * 3600 / sum(
                    self.seconds
                )
                assert slope <= allowed, f"{name} grows by {slope:.1f} MiB/h"
            children = f"{late[0].children_mib:.1f} to {late[-1].children_mib:.1f} MiB in children"
            files = f"{late[0].files} to {late[-1].files} open files (most {max(s.files for s in late)})"
            memory = f"{late[0].rss_mib:.1f} to {late[-1].rss_mib:.1f} MiB ({slope:+.0f} MiB/h)"
            lines.append(f"{name}: {3600 * hours:.0f} s watched, {memory}, {children}, {files}")
        return lines


def _slope(xs: list[float], ys: list[float]) -> float:
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / spread


def main() -> int:
    """Run, check, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kill-every", type=float, default=15.0, help="mean seconds between kills; 0: none")
    parser.add_argument("--cut-every", type=float, default=20.0, help="mean life of a connection; 0: no cuts")
    parser.add_argument("--keep", type=Path, help="a new folder to keep, instead of a temporary one")
    parser.add_argument("--database", choices=("sqlite", DATABASE), default="sqlite")
    given = parser.parse_args()
    if given.database == DATABASE and programs() is None:
        parser.error(f"PostgreSQL is not installed: {INSTALL}")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        cluster = None
        if given.database == DATABASE:
            cluster = Cluster()
            servers.callback(cluster.remove)
        soak = Soak(
            given.keep or Path(scratch) / "soak",
            given.seed,
            kill_every_s=given.kill_every,
            cut_every_s=given.cut_every,
            cluster=cluster,
        )
        failed = ""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the processes are ended all the same
        try:
            soak.set_up()
            soak.run(given.minutes)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        finally:
            taken = soak.stop()
        if not failed:
            try:
                assert max(taken.values()) <= 10.0, f"slow to stop: {taken}"
                soak.check()
                soak.growth()
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
        report(soak, given.seed, taken, failed)
    return 1 if failed else 0


def report(soak: Soak, seed: int, taken: dict[str, float], failed: str) -> None:
    """What was seen."""
    print(f"seed {seed}: {len(soak.seconds)} studies finished of {len(soak.studies)}")
    if soak.seconds:
        print(f"seconds a study: {min(soak.seconds):.0f} to {max(soak.seconds):.0f}")
    print(f"kills: {dict(soak.kills)}; connections cut: {soak.line.cuts}")
    print(f"slowest end after SIGTERM: {max(taken.values(), default=0):.1f} s")
    wanted = re.compile(r"attempt\.|round\.|lead\.|lineage\.|audit\.|aggregator\.unreach|certificate\.")
    print("events:", {k: v for k, v in sorted(soak.events.items()) if wanted.match(k)})
    print("spent epsilon:", {k: round(v, 2) for k, v in soak.spent.items()})
    with suppress(AssertionError):  # it is in ``failed`` already
        print("\n".join(soak.growth()))
    if soak.entries:
        print(f"audit log: {soak.entries} entries agree with {soak.heads} heads of the hospitals")
    print(f"FAILED: {failed}" if failed else "PASSED: every invariant held")


if __name__ == "__main__":
    raise SystemExit(main())
