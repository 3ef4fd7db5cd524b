"""A plan: a study and the roster of hospitals, signed by the admin and approved by the hospitals."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from medveil.bounds import MOST_HOSPITALS, STORED
from medveil.errors import Error, RemoteProtocolError
from medveil.handed import problem_of
from medveil.identity import BadSignature, Identity, verify
from medveil.ids import canonical, digest
from medveil.study import Study
from medveil.values import Frozen, Name

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
P = TypeVar("P", bound="Plan")
MOST_AMENDMENTS = 100


class Member(Frozen):
    """One hospital of a roster: its place (from 1), its name and its Ed25519 public key in hexadecimal."""

    index: Annotated[int, Field(ge=1, le=10_000)]
    name: Name
    public_key: PublicKey

    @property
    def key(self) -> bytes:
        """The 32 bytes of the public key."""
        return bytes.fromhex(self.public_key)


Roster = Annotated[tuple[Member, ...], Field(min_length=3, max_length=MOST_HOSPITALS)]
Number = Annotated[int, Field(ge=1, le=1_000_000)]


class Epoch(Frozen):
    """A roster before the present one, and what of its plan is not in the present plan as well."""

    roster: Roster
    max_hospitals: Annotated[int, Field(ge=3, le=2000)]
    """The study's ``cohort.max_hospitals`` at that time; the rest of the study is the same for ever."""
    epoch: Number = 1
    first_round: Number = 1


class Plan(Frozen):
    """What the hospitals sign: the study, who takes part, and the epoch (a changed roster is a new epoch)."""

    study: Study
    roster: Roster
    epoch: Number = 1
    first_round: Annotated[Number, Field(exclude_if=lambda given: given == 1)] = 1
    """The first round that this roster may work on: at least so many were tried by rosters before it."""
    earlier: Annotated[
        tuple[Epoch, ...], Field(max_length=MOST_AMENDMENTS, exclude_if=lambda given: not given)
    ] = ()
    """The rosters that this one follows, oldest first; of an amended plan only."""

    @model_validator(mode="after")
    def _roster_is_sound(self) -> Self:
        for values in ([m.index for m in self.roster], self.names, [m.public_key for m in self.roster]):
            if len(set(values)) != len(self.roster):
                raise ValueError("two members of the roster share an index, a name or a key")
        if not self.study.cohort.min_hospitals <= len(self.roster) <= self.study.cohort.max_hospitals:
            raise ValueError("the roster is smaller or larger than the study's cohort limits")
        return self

    @model_validator(mode="after")
    def _follows(self) -> Self:
        if not self.earlier:
            return self
        last = self.earlier[-1]
        if self.epoch != last.epoch + 1:
            raise ValueError("an amended plan's epoch is the one after the last of the earlier rosters")
        if not last.first_round <= self.first_round <= self.study.training.rounds + 1:
            raise ValueError("an amended plan's first round lies before the last roster's, or after the end")
        assert self.before is not None  # making it checks it, and those before it
        return self

    @property
    def names(self) -> list[str]:
        """Names of the hospitals, in roster order."""
        return [m.name for m in self.roster]

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 over the canonical form; it names the plan everywhere."""
        return digest("plan", canonical(self.model_dump(mode="json")))

    @cached_property
    def before(self) -> Plan | None:
        """The plan that this one amends, made out of it: whoever has signed that one knows its hash."""
        if not self.earlier:
            return None
        *older, last = self.earlier
        cohort = self.study.cohort.model_copy(update={"max_hospitals": last.max_hospitals})
        return Plan(
            study=self.study.model_copy(update={"cohort": cohort}),
            roster=last.roster,
            epoch=last.epoch,
            first_round=last.first_round,
            earlier=tuple(older),
        )

    @property
    def epochs(self) -> tuple[Plan, ...]:
        """This plan and those before it, newest first."""
        return (self,) if self.before is None else (self, *self.before.epochs)

    @property
    def lineage(self) -> str:
        """The id of the first of these plans: what goes on through all of them is kept under it."""
        return self.epochs[-1].id

    def since(self, key: bytes) -> int:
        """The first round of the oldest of these plans that names this public key; of this one if none."""
        named = [plan.first_round for plan in self.epochs if any(m.key == key for m in plan.roster)]
        return named[-1] if named else self.first_round

    def __copy__(self) -> Self:
        return _without_hash(super().__copy__())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return _without_hash(super().__deepcopy__(memo))

    @property
    def id(self) -> str:
        """The hash as 64 hexadecimal digits."""
        return self.hash.hex()

    def member(self, name: str) -> Member | None:
        """The roster entry of that name, if any."""
        return next((m for m in self.roster if m.name == name), None)

    @property
    def approvals_needed(self) -> int:
        """More than half of the data owners must have signed before anybody trains."""
        return len(self.roster) // 2 + 1


def _without_hash(copied: P) -> P:
    """A copy is about to become another plan (``model_copy``): it must not keep the first one's hash."""
    for made in ("hash", "before"):
        copied.__dict__.pop(made, None)
    return copied


class NotApproved(Error):
    """Too few hospitals have signed this exact plan."""

    code = "plan-not-approved"

    def __init__(self, *, got: int, need: int) -> None:
        super().__init__(
            what=f"{got} valid approvals of this plan are here; {need} are needed.",
            meaning="A plan binds only when most data owners signed the same study and the same roster.",
            remedy="Ask the other hospitals' operators to run 'medveil node approve'.",
        )


class BadPlan(RemoteProtocolError):
    """Something called a plan is not one."""

    code = "bad-plan"

    def __init__(self, *, problem: str = "it is no JSON text of a plan") -> None:
        super().__init__(
            what=f"The aggregator sent a plan that cannot be read: {problem}.",
            meaning="It was ignored.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


def parse_plan(value: Any) -> Plan:
    """A plan from its JSON form, as it came over the wire.

    Raises:
        BadPlan: it does not validate.
    """
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        raise BadPlan(problem=problem_of(error)) from error


def stored_plan(text: str) -> Plan:
    """A plan that was accepted before, from this machine's own disk; today's bounds may be narrower.

    Raises:
        BadPlan: not even that.
    """
    try:
        return Plan.model_validate_json(text, context=STORED)
    except ValidationError as error:
        raise BadPlan(problem=problem_of(error)) from error


def sign_approval(plan: Plan, identity: Identity) -> bytes:
    """A data owner's signature under the plan's hash."""
    return identity.sign("approve-plan", plan.hash)


def sign_refusal(plan: Plan, identity: Identity, kind: str, reason: str) -> bytes:
    """A hospital's word that it takes no part in exactly this plan, or none any more."""
    return identity.sign("refuse-plan", plan.hash, kind.encode(), reason.encode())


def check_refusal(plan: Plan, member: Member, kind: str, reason: str, signature: bytes) -> None:
    """Raises: BadSignature unless it is this hospital's own word."""
    verify(member.key, signature, "refuse-plan", plan.hash, kind.encode(), reason.encode())


def valid_approvals(plan: Plan, approvals: dict[str, bytes]) -> int:
    """How many approvals (hospital name → signature) of exactly this plan are valid."""
    valid = 0
    for member in plan.roster:
        try:
            verify(member.key, approvals.get(member.name, b""), "approve-plan", plan.hash)
            valid += 1
        except BadSignature:
            continue
    return valid


def check_approvals(plan: Plan, approvals: dict[str, bytes]) -> None:
    """Whether enough valid approvals of this exact plan are there.

    Raises:
        NotApproved: fewer than :attr:`Plan.approvals_needed` are valid.
    """
    valid = valid_approvals(plan, approvals)
    if valid < plan.approvals_needed:
        raise NotApproved(got=valid, need=plan.approvals_needed)
