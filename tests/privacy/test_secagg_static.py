"""Read from the source: which randomness is used, and what a log could ever print."""

from __future__ import annotations

import ast
import base64
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from linked import STEPS, Consortium
from medveil.identity import Secret
from privacy.secagg import server

ROOTS = (
    "privacy.encoding",
    "privacy.dp.noise",
    *(
        f"privacy.secagg.{n}"
        for n in (
            "checkword",
            "closing",
            "graph",
            "kernel",
            "keys",
            "keystream",
            "masks",
            "messages",
            "node",
            "rosters",
            "server",
            "shamir",
            "vector",
        )
    ),
)
OURS = ("privacy", "medveil")
FORBIDDEN = ("random", "torch", "numpy.random", "scipy.stats", "monai", "opacus")


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def _imports(tree: ast.AST) -> Iterator[str]:
    """What is imported anywhere when the module runs; what only a type checker reads is not."""
    blocks = [b for b in ast.walk(tree) if isinstance(b, ast.If) and ast.unparse(b.test) == "TYPE_CHECKING"]
    unread = {id(line) for block in blocks for part in block.body for line in ast.walk(part)}
    for line in ast.walk(tree):
        if id(line) in unread:
            continue
        if isinstance(line, ast.Import):
            yield from (name.name for name in line.names)
        elif isinstance(line, ast.ImportFrom) and line.module:
            yield line.module
            yield from (f"{line.module}.{name.name}" for name in line.names)


@functools.cache
def _reachable() -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found or name.split(".")[0] not in OURS:
            continue
        try:
            tree = ast.parse(_source(name))
        except (AssertionError, ModuleNotFoundError):
            continue  # a name inside a module, not a module
        found[name] = tree
        waiting += _imports(tree)
    return found


def test_every_module_of_the_room_is_looked_at() -> None:
    folder = Path(importlib.util.find_spec("privacy.secagg.masks").origin).parent  # type: ignore[union-attr, arg-type]
    assert {f"privacy.secagg.{f.stem}" for f in folder.glob("*.py")} - {"privacy.secagg.__init__"} <= set(
        ROOTS
    )
    assert {"medveil.identity", "medveil.study", *ROOTS} <= set(_reachable())


def test_no_general_purpose_generator_can_be_reached() -> None:
    for module, tree in _reachable().items():
        bad = {i for i in _imports(tree) if any(i == f or i.startswith(f"{f}.") for f in FORBIDDEN)}
        assert bad == set(), module
        named = {id(part) for annotation in _annotations(tree) for part in ast.walk(annotation)}
        for part in ast.walk(tree):
            if isinstance(part, ast.Attribute) and id(part) not in named:
                assert part.attr not in ("random", "default_rng", "RandomState", "Generator"), module


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """A type in a signature reaches nothing: no module here evaluates its annotations."""
    for part in ast.walk(tree):
        if isinstance(part, ast.arg | ast.AnnAssign) and part.annotation is not None:
            yield part.annotation
        elif isinstance(part, ast.FunctionDef) and part.returns is not None:
            yield part.returns


def test_the_machines_are_handed_their_randomness() -> None:
    """No module of the protocol draws by itself, so that a test vector can fix every byte."""
    for module, tree in _reachable().items():
        if module.startswith("privacy.secagg") or module == "privacy.encoding":
            # The generator's module looks at a clock to take the faster of two calls with the same bytes.
            clock = set() if module == "privacy.secagg.keystream" else {"time"}
            assert not {"secrets", "os", "uuid", *clock} & set(_imports(tree)), module


def _secrets_in(value: Any) -> Iterator[bytes]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _secrets_in(getattr(value, field.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _secrets_in(inner)


def _spellings(secret: bytes) -> list[str]:
    return [secret.hex(), repr(secret)[2:-1], base64.b64encode(secret).decode(), str(int.from_bytes(secret))]


def test_no_state_and_no_message_prints_a_secret(consortium: Callable[..., Consortium]) -> None:
    world, printed, known = consortium(4), [], set()
    for phase in STEPS:
        for index in sorted(world.server.invited):
            if index == 4 and phase is STEPS[3]:
                continue  # drops out, so that the last step gives both kinds of shares
            message = world.hospitals[index].answer(phase, server.view(world.server, index))
            world.server = server.receive(world.server, message)
            if phase is STEPS[5]:
                known |= {*message.self_shares.values(), *message.key_shares.values()}
            known |= set(_secrets_in(world.hospitals[index].state))
            for thing in (world.hospitals[index].state, message, world.server):
                printed += [repr(thing), str(thing)]
        if phase is not STEPS[5]:
            world.server = server.close_phase(world.server)
    removal = server.masks_to_remove(world.server)
    known |= set(_secrets_in(removal))
    text = "\n".join([*printed, repr(removal)])
    assert len(known) > 30
    assert not [s for s in known if any(spelling in text for spelling in _spellings(s))]


def test_only_the_one_pass_holds_unmasked_words_and_only_it_makes_what_may_leave() -> None:
    """In the whole product: what encodes is used by ``masked_update`` alone, and so is ``MaskedUpdate``.

    An audit encodes as well: sums of made-up hospitals, which leave no process.
    """
    top = Path(importlib.util.find_spec("privacy").origin).parents[1]  # type: ignore[union-attr, arg-type]
    rooms = ("aggregator", "hospital_node", "platform", "privacy")
    files = [f for room in rooms for f in (top / room).rglob("*.py")]
    assert top / "hospital_node" / "attempt.py" in files
    users = {name: set[str]() for name in ("Encoder", "MaskedUpdate", "masked_update")}
    for file, text in ((file, file.read_text(encoding="utf-8")) for file in files):
        for part in ast.walk(ast.parse(text)) if any(name in text for name in users) else ():
            name = (
                getattr(part.func, "id", getattr(part.func, "attr", "")) if isinstance(part, ast.Call) else ""
            )
            if name in users:
                users[name].add(str(file.relative_to(top)))
    vector, attempt = "privacy/secagg/vector.py", "hospital_node/attempt.py"
    audit = "platform/medveil_research/audit.py"
    assert users == {"Encoder": {vector, audit}, "MaskedUpdate": {vector}, "masked_update": {attempt}}
