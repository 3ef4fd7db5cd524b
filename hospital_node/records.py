"""The node's records of its patients, held against each other: ledger, cohorts, what earlier versions noted.

Everything is one chain: the ledger's rows name the cohorts and the file of earlier splits by their hashes,
the journal keeps the last row's hash, and the aggregator's audit log keeps one made of it. So a file that is
gone, cut, exchanged or older than the others is noticed at the next start.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hospital_node.cohort import (
    Cohort,
    CohortChanged,
    CohortMissing,
    Cohorts,
    Held,
    Names,
    Reading,
    freeze,
    is_cohort,
    read_patients,
)
from hospital_node.frozen import FrozenPlans, JournalAnchor, Part
from hospital_node.individual import Filters
from hospital_node.journal import Journal
from hospital_node.ledger import Charge, Ledger, LedgerSetBack, LedgerUnreadable
from hospital_node.ledgerfile import check_end
from hospital_node.persons.known import PersonsNotAsked, check_alone, standings
from hospital_node.settings import Node
from hospital_node.splits import LOST, NEVER, FormerSplits, SplitsDamaged, read_former
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.messages import LedgerEnd, sign_ledger_end
from medveil.plan import Plan
from medveil.study import Study
from medveil_imaging.sources.manifest import MANIFEST
from privacy.dp.individual import PatientFilter
from privacy.dp.ledger import MARKS, OPEN, PROMISED, Row, State, charges, restorations, total

if TYPE_CHECKING:  # an operator looks at records without what reads images
    from medveil_imaging.patients import Patient
    from medveil_imaging.sources.site import SiteData

log = get_logger()


@dataclass(frozen=True)
class Use:
    """With whom this hospital takes part in a plan now."""

    cohort: Cohort
    """Those whom the plan may use: of a private plan, those that its ledger rows name."""
    declared: int
    turn: int


Source = tuple[str, Part | None]
"""What images are read by: another one when the manifest is, or when the operator takes another cohort."""


@dataclass(frozen=True)
class Read:
    """Images, and the hashes of the files that they were read from."""

    site: SiteData
    patients: Mapping[str, Held]


class Records:
    """One node's records. :meth:`open` for the process that works, :meth:`view` for one that looks."""

    def __init__(
        self, node: Node, identity: Identity, journal: Journal, ledger: Ledger, former: FormerSplits | None
    ) -> None:
        self._node, self._identity, self._names = node, identity, Names(identity)
        self._former, self._cohorts = former, Cohorts(node.cohorts)
        self.ledger = ledger
        self._filters = Filters(ledger, node.use)
        self.plans = FrozenPlans(journal)
        self.anchor = JournalAnchor(journal)
        self._contradicted = False
        self._newest_end: tuple[Row | None, str] = (None, "")
        self._uses: dict[str, tuple[Part, Use]] = {}
        """What is in the ledger already, so that a round need not hold everybody against the budget again."""
        self._charged: dict[str, tuple[int, float]] = {}
        """Plan → its charges so far, and their epsilon."""
        self._look_at_alarm()

    @classmethod
    def open(cls, node: Node, identity: Identity, journal: Journal, *, trusting: bool = False) -> Self:
        """Take the ledger, bring files of an earlier version into today's form, hold all against each other.

        Args:
            trusting: the operator goes on from an older copy: what is missing is not asked for.
        Raises: what :meth:`Ledger.open` raises; SplitsDamaged, LedgerSetBack.
        """
        anchor = JournalAnchor(journal)
        ledger = Ledger.open(node.ledger, anchor=anchor, cohorts=node.cohorts, trusting=trusting)
        try:
            former, name = _former(node, identity, ledger.rows(), trusting)
            if name == LOST:
                ledger.forget_data_sets()
            if name:
                ledger.migrate(name)
            return cls(node, identity, journal, ledger, former)
        except BaseException:
            ledger.close()
            raise

    @classmethod
    @contextmanager
    def view(cls, node: Node, identity: Identity, journal: Journal) -> Iterator[Self]:
        """A copy of the ledger to look at and to try on, so that a running node keeps its own.

        Raises: as :meth:`open`.
        """
        anchor = JournalAnchor(journal)
        before = anchor.newest()
        with copied_ledger(node) as path, Ledger.open(path, cohorts=node.cohorts) as ledger:
            check_end(ledger.rows(), before, still=before == anchor.newest())
            former, name = _former(node, identity, ledger.rows(), False)
            if name == LOST:
                ledger.forget_data_sets()
            yield cls(node, identity, journal, ledger, former)

    def end(self) -> LedgerEnd | None:
        """Where the ledger ends, for the aggregator to keep; None while a charge is open or nothing is there.

        What a row says cannot be found out from it, for the mark is made with this node's key.
        """
        rows = self.ledger.rows()
        if not rows or rows[-1].entry.state in OPEN or self._contradicted:
            return None
        return sign_ledger_end(self._identity, restorations(rows), len(rows), self._mark_of(rows[-1]))

    def end_text(self) -> str:
        """The same as text; empty if there is none. Made once for each row."""
        rows = self.ledger.rows()
        if rows and self._newest_end[0] is not rows[-1]:
            end = self.end()
            self._newest_end = (rows[-1], "" if end is None else str(end))
        return self._newest_end[1]

    def meet(self, theirs: LedgerEnd | None) -> None:
        """Hold the ledger against what the aggregator kept of it. An older ledger raises an alarm.

        The alarm stands, whatever the aggregator says later, until the rows are back or the operator goes on
        without them.
        Raises: BadSignature: it is not what this hospital told.
        """
        if theirs is None:
            return
        theirs.check(self._identity.public_key)
        if self._lacks(theirs):
            have, seen = len(self.ledger.rows()), theirs.number
            log.error("ledger.set-back", code=LedgerSetBack.code, count=have, total=seen)
            self.anchor.contradict(str(theirs))
        self._look_at_alarm()

    def _lacks(self, end: LedgerEnd) -> bool:
        """Whether this ledger is older than one that ended so, or another one."""
        rows = self.ledger.rows()
        if end.count != restorations(rows):
            return end.count > restorations(rows)
        return end.number > len(rows) or self._mark_of(rows[end.number - 1]) != end.mark

    def _look_at_alarm(self) -> None:
        refused = self.anchor.contradicted()
        self._contradicted = bool(refused) and self._lacks(LedgerEnd.parse(refused))
        if refused and not self._contradicted:
            self.anchor.contradict("")

    def go_on(self, theirs: LedgerEnd | None, promised: Iterable[Plan]) -> None:
        """The operator's word to go on from these files although newer ones are lost.

        Everything that was ever promised counts as spent, so no plan from before is worked on any more.

        Args:
            theirs: where the aggregator has seen this ledger end.
            promised: plans that this hospital has signed. Those that the ledger does not know are paid by
                everybody.
        """
        for plan in promised:
            if plan.study.privacy.kind != "none":
                self.ledger.promise(plan.study, plan.lineage)
        ends = [theirs] if theirs else []
        if self.anchor.contradicted():
            ends.append(LedgerEnd.parse(self.anchor.contradicted()))
        self.ledger.go_on(count=1 + max([restorations(self.ledger.rows()), *(end.count for end in ends)]))
        self._look_at_alarm()

    def check_alarm(self) -> None:
        """Raises: LedgerSetBack if the aggregator has seen rows that are not here."""
        if self._contradicted:
            raise LedgerSetBack(problem="the aggregator has seen rows that are not in this ledger")

    def _mark_of(self, row: Row) -> bytes:
        key = self._identity.secret_for("ledger-end").reveal()
        return hmac.digest(key, f"{row.number} {row.hash}".encode(), "sha256")

    def charged(self, plan: str) -> float | None:
        """Epsilon that was charged for a lineage so far; None if nothing was. Counted once a charge."""
        taken = charges(self.ledger.rows(), plan)
        if plan not in self._charged or self._charged[plan][0] != len(taken):
            delta = min((entry.delta for entry in taken), default=1.0)
            self._charged[plan] = (len(taken), total(taken, delta, joint=True))
        return self._charged[plan][1] if taken else None

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()

    def reading(self, study: Study) -> Reading:
        """What the images folder holds now."""
        return read_patients(self._node.settings.data, study, self._names)

    def frozen(self, reading: Reading) -> Cohort:
        """A cohort of what the folder holds; it is kept nowhere yet."""
        before = self._former.before if self._former else None
        persons = standings(self._node, self._identity).own
        return freeze(
            reading, self._node.settings.dataset, known=self._cohorts.all(), before=before, persons=persons
        )

    def of_one_hospital(self, plan: Plan, cohort: Cohort) -> Cohort:
        """Those of a cohort whom a plan may use: all, or only persons whom no other hospital has."""
        if plan.study.cohort.persons is None:
            return cohort
        return cohort.only(lambda _, held: bool(held.person))

    def check_asked(self, plan: Plan, cohort: Cohort) -> None:
        """Raises: PersonsNotAsked if a plan lets nobody be in two hospitals and somebody may be; BadFile."""
        if plan.study.cohort.persons is not None:
            unasked = cohort.patients.keys() - standings(self._node, self._identity).asked
            if unasked:
                raise PersonsNotAsked(count=len(unasked))

    def take(self, plan: Plan, cohort: Cohort, declared: int) -> Part:
        """Keep a cohort and remember it for a plan: the operator's word."""
        self._cohorts.keep(cohort)
        return self.plans.take(plan.lineage, cohort.name, declared)

    def part(self, plan: Plan) -> Part | None:
        """What was taken for a plan. Raises: CohortMissing if the plan is private and nothing was."""
        part = self.plans.part(plan.lineage)
        if part is None and plan.study.privacy.kind != "none":
            raise CohortMissing()
        return part

    def cohort(self, part: Part) -> Cohort:
        """Raises: CohortDamaged."""
        return self._cohorts.load(part.cohort)

    def register(self, plan: Plan) -> None:
        """Enter a private plan's schedule into the ledger, for the cohort that was taken last.

        Nothing to do without privacy, or a second time.
        Raises: BudgetExceeded, CohortMissing, CohortDamaged.
        """
        if plan.study.privacy.kind != "none":
            self.use(plan)

    def delta_limit(self, declared: int | None = None) -> float:
        """The delta at which this hospital counts, unless a study names a smaller one.

        Args:
            declared: patients that are about to be declared; whatever was declared before counts as well.
        """
        numbers = [n for n in (self.plans.most_declared(), declared) if n is not None]
        return self._node.settings.policy.delta_limit(max(numbers, default=None))

    def admit(self, plan: Plan, cohort: Cohort, declared: int) -> None:
        """Hold a private plan with a cohort against the budget, and enter it.

        Raises: BudgetExceeded; LedgerSetBack if an alarm of :meth:`meet` stands.
        """
        if plan.study.privacy.kind == "none":
            return
        self.check_alarm()
        cohort = self.of_one_hospital(plan, cohort)
        policy = self._node.settings.policy
        self.ledger.register(
            plan.study,
            plan_id=plan.lineage,
            dataset=cohort,
            cap=policy.epsilon_cap,
            count_joint_noise=policy.count_joint_noise,
            delta_cap=self.delta_limit(declared),
            first=plan.since(self._identity.public_key),
        )

    def use(self, plan: Plan) -> Use | None:
        """With whom a plan goes on now; None for one without privacy for which nothing was frozen.

        Raises: as :meth:`register`.
        """
        part, private = self.part(plan), plan.study.privacy.kind != "none"
        if part is None:
            return None
        if private:
            self.check_alarm()
        known = self._uses.get(plan.lineage)
        if known is not None and known[0] == part:
            return known[1]
        cohort = self.cohort(part)
        self.admit(plan, cohort, part.declared)
        if private:
            cohort = self.ledger.cohort(plan.lineage) or cohort
        if plan.study.cohort.persons is not None:
            check_alone(cohort)
        use = Use(cohort, part.declared, part.turn)
        self._uses[plan.lineage] = part, use
        return use

    def source(self, plan: Plan) -> Source:
        """See :data:`Source`."""
        try:
            manifest = hashlib.sha256((self._node.settings.data / MANIFEST).read_bytes()).hexdigest()
        except OSError:
            manifest = ""
        return manifest, self.plans.part(plan.lineage)

    def filter_for(self, plan: Plan, charge: Charge | None, site: SiteData) -> PatientFilter | None:
        """What a charged round may use of each training patient; None if its plan has no filter."""
        if charge is None or charge.entry.patient_mu is None or (use := self.use(plan)) is None:
            return None
        accounts = {name: held.account for name, held in use.cohort.patients.items()}
        payers = {one.patient: accounts[self._names.patient(one.patient)] for one in site.train}
        return self._filters.of(charge, payers, delta=self.delta_limit())

    def settle_use(self, charge: Charge | None, used: PatientFilter | None) -> None:
        """Count what a round used in place of all of it, when its outcome is kept and marked as released."""
        if charge is not None:
            self._filters.settle(charge, used)

    def read(self, plan: Plan, read: Callable[[Plan], SiteData]) -> Read:
        """Read the images between two looks at the files, so that what was read is what was hashed.

        Raises: CohortChanged if somebody changed the folder meanwhile; what ``read`` raises.
        """
        if self.plans.part(plan.lineage) is None:
            return Read(read(plan), {})
        before = self.reading(plan.study).patients
        site = read(plan)
        after = self.reading(plan.study).patients
        if before != after:
            raise CohortChanged(changes=Cohort("", before).changes(after))
        return Read(site, after)

    def check(self, plan: Plan, read: Read) -> SiteData:
        """What was read, without patients whom the plan may not use, if it is what was frozen.

        Of a plan without privacy a difference is only logged, and nobody is left out.
        Raises: CohortChanged, and as :meth:`use`.
        """
        part, private, site = self.part(plan), plan.study.privacy.kind != "none", read.site
        if part is None:
            return site
        cohort = self.cohort(part)
        changes = cohort.changes(read.patients)
        if changes:
            log.warning("cohort.changed", plan=plan.id, reason=str(changes))
            if private:
                raise CohortChanged(changes=changes)
        use = self.use(plan)
        if not private or use is None:
            return site
        moved = self.ledger.usable(plan.study, cohort)[1]
        if moved:
            log.warning("patients.moved", plan=plan.id, count=moved)
        train, val, test = (
            self._only(patients, use.cohort, split)
            for split, patients in (("train", site.train), ("val", site.val), ("test", site.test))
        )
        return replace(site, train=train, val=val, test=test)

    def _only(self, patients: tuple[Patient, ...], cohort: Cohort, split: str) -> tuple[Patient, ...]:
        names = ((p, self._names.patient(p.patient)) for p in patients)
        return tuple(p for p, n in names if n in cohort.patients and cohort.patients[n].split == split)


def _former(
    node: Node, identity: Identity, rows: tuple[Row, ...], trusting: bool
) -> tuple[FormerSplits | None, str]:
    """What earlier versions noted, and its name for the ledger ("": there was no earlier version)."""
    noted = next((r for r in rows if r.entry.state is State.MIGRATED), None)
    old = [r for r in rows if r.entry.state not in MARKS and not is_cohort(r.entry.dataset)]
    if noted is None and not old and not node.splits.exists():
        return None, ""
    if noted is not None and noted.entry.dataset in (NEVER, LOST):
        return None, noted.entry.dataset
    if noted is None and not node.splits.exists() and all(r.entry.state in PROMISED for r in old):
        return None, NEVER
    try:
        former, name = read_former(node.splits, identity)
        if noted is not None and name != noted.entry.dataset:
            raise SplitsDamaged(name=node.splits.name)
    except SplitsDamaged:
        gone_on = max((r.number for r in rows if r.entry.state is State.RESTORED), default=0)
        if trusting or (noted is not None and noted.number < gone_on):
            return None, LOST
        raise
    if noted is None and len(former) and not rows and not trusting:
        raise LedgerSetBack(problem="it has no row, but splits.json remembers patients")
    return former, name


@contextmanager
def copied_ledger(node: Node) -> Iterator[Path]:
    """A copy to look at, so that a running node keeps its lock. Raises: LedgerUnreadable."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ledger.jsonl"
        if node.ledger.exists():
            try:
                shutil.copyfile(node.ledger, target)
            except OSError as error:
                raise LedgerUnreadable(reason=error.strerror or "unknown reason") from error
        yield target
