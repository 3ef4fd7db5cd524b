"""A consortium's keepers in memory, and hospitals that ask them: bytes pass as they would over the wire."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from medveil.identity import Identity, Secret
from medveil.persons import Keeper, Persons, identifier_form
from privacy.oprf.group import multiple_of_base
from privacy.oprf.hospital import Claimed, ask, claim, tags
from privacy.oprf.keeper import KeeperKeys, KeeperSide, LimitReached, RegisterFull
from privacy.oprf.sealing import Claim


@dataclass
class Book:
    """What a keeper remembers, in memory."""

    keys: dict[str, bytes]
    limit: int
    most: int = 10**6
    lies: bool = False
    """Whether it says yes to everybody."""
    counted: dict[str, set[bytes]] = field(default_factory=dict)
    register: dict[bytes, bytes] = field(default_factory=dict)

    def key_of(self, hospital: str) -> bytes | None:
        return self.keys.get(hospital)

    def charge(self, hospital: str, marks: Sequence[bytes]) -> None:
        known = self.counted.setdefault(hospital, set())
        if len(known | set(marks)) > self.limit:
            raise LimitReached()
        known.update(marks)

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        if len(self.register.keys() | {tag for tag, _ in claims}) > self.most:
            raise RegisterFull()
        for tag, mark in claims:
            self.register.setdefault(tag, mark)
        return [self.lies or self.register[tag] == mark for tag, mark in claims]


@dataclass
class Consortium:
    """Two keepers and three hospitals."""

    persons: Persons
    sides: list[KeeperSide]
    books: list[Book]
    identities: dict[str, Identity]
    own: dict[str, Secret]

    async def letter(self, keeper: str, body: bytes) -> bytes:
        """As a node's line to the aggregator has it."""
        number = [one.name for one in self.persons.keepers].index(keeper)
        return self.sides[number].answer(body)

    def outputs(self, hospital: str, people: Sequence[str]) -> list[list[bytes]]:
        forms, found = [identifier_form(one) for one in people], []
        for keeper, side in zip(self.persons.keepers, self.sides, strict=True):
            asked = ask(
                self.persons, keeper, forms, identity=self.identities[hospital], secret=self.own[hospital]
            )
            found.append(asked.outputs(side.answer(asked.request)))
        return found

    def tags(self, hospital: str, people: Sequence[str]) -> list[bytes]:
        return tags(self.persons, self.outputs(hospital, people))

    def claimed(
        self, hospital: str, named: Sequence[bytes], number: int, *, to: int | None = None
    ) -> tuple[Claimed, bytes]:
        """What was sent for one keeper, and the answer of it or of another one."""
        made = claim(
            self.persons,
            self.persons.keepers[number],
            named,
            secret=self.own[hospital],
            private=secrets.token_bytes(32),
            nonce=secrets.token_bytes(12),
        )
        return made, self.sides[number if to is None else to].answer(made.request)

    def claim(self, hospital: str, people: Sequence[str]) -> list[bool]:
        """Whom of these people a hospital has: those whom every keeper gives it."""
        mine = [True] * len(people)
        named = self.tags(hospital, people)
        for number in range(len(self.sides)):
            rest = [i for i, own in enumerate(mine) if own]
            if rest:
                made, answer = self.claimed(hospital, [named[i] for i in rest], number)
                for i, given in zip(rest, made.given(answer), strict=True):
                    mine[i] = given
        return mine


def new_keys() -> KeeperKeys:
    """Of one keeper."""
    return KeeperKeys(Secret(secrets.token_bytes(48)), Secret(secrets.token_bytes(32)))


def public(name: str, keys: KeeperKeys) -> Keeper:
    """What the persons file says of a keeper."""
    sealing = X25519PrivateKey.from_private_bytes(keys.sealing.reveal()).public_key().public_bytes_raw()
    return Keeper(name=name, evaluation=multiple_of_base(keys.scalar).to_bytes().hex(), sealing=sealing.hex())


def consortium(limit: int = 1000, *, hospitals: Sequence[Identity] = ()) -> Consortium:
    """Args: limit: evaluations that each hospital is allowed. hospitals: a, b and c if left out."""
    keys = {name: new_keys() for name in ("east", "west")}
    persons = Persons(
        name="north", identifier="NHS number", keepers=tuple(public(n, k) for n, k in keys.items())
    )
    identities = {one.name: one for one in hospitals or map(Identity.generate, "abc")}
    books = [Book({n: i.public_key for n, i in identities.items()}, limit) for _ in keys]
    sides = [
        KeeperSide(name, persons.hash, own, book, secrets.token_bytes)
        for (name, own), book in zip(keys.items(), books, strict=True)
    ]
    own = {name: Secret(secrets.token_bytes(32)) for name in identities}
    return Consortium(persons, sides, books, identities, own)
