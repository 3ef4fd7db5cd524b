"""The operator's page over made-up values, served on loopback for as long as a test wants it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hospital_node.checked import Checked, OfLabel, OfSplit, Rejects
from hospital_node.page.app import Page
from hospital_node.page.serving import listen, server_of
from hospital_node.page.values import (
    BigState,
    Call,
    Card,
    Data,
    Difference,
    Examined,
    Finding,
    Going,
    HealthShown,
    Leaves,
    LedgerShown,
    Panels,
    PlanNow,
    Requests,
    Sent,
    Spent,
    Training,
    Trouble,
)
from hospital_node.settings import Node, NodeSettings
from medveil.spoken import words_of

NOON = 1_796_000_000.0
HOSTILE = "</script><b onload=alert(1)>'\"&amp;{{ 7*7 }}" + "x" * 60
HASH = bytes(range(32))


def made_node(folder: Path, name: str = "guangzhou-b") -> Node:
    """A node's folder with nothing in it but its settings."""
    settings = NodeSettings(name=name, aggregator="https://here", data=Path("/srv/films"), dataset="films")
    made = Node(folder / "node", settings)
    made.save()
    return made


def plan_now(study: str = "pneumothorax-on-films", **changes: Any) -> PlanNow:
    """A plan in its seventh round."""
    values: dict[str, Any] = {
        "study": study,
        "plan": HASH.hex(),
        "stand": "running",
        "round": 7,
        "rounds": 13,
        "approvals": 5,
        "approvals_needed": 4,
        "waits_for": "",
        "code": "",
        "device": "cuda",
        "going": Going("training", 52, 180, 640.0),
        "leaving": False,
    }
    return PlanNow(**(values | changes))


def card(number: int = 0, text: str = "", **changes: Any) -> Card:
    """A request; ``text`` stands wherever others have written."""
    plan = bytes([number + 1]) + HASH[1:]
    values: dict[str, Any] = {
        "plan": plan.hex(),
        "words": words_of(plan),
        "study": text or "prostate-in-mr",
        "description": text
        or "Outlines the prostate for planning of biopsies; four hospitals, one scanner maker each.",
        "task": "segmentation",
        "classes": (text or "background", "prostate"),
        "profile": "mri",
        "model": "unet3d",
        "parameters": 4_812_320,
        "rounds": 20,
        "hospitals": ("lyon", "nagasaki", "porto", "guangzhou-b"),
        "smallest_sum": 4,
        "resisted": 1,
        "privacy": "local",
        "epsilon": 4.0,
        "delta": 1e-5,
        "cap": 8.0,
        "upload_bytes": 18_900_000,
        "evaluation_bytes": 8_400,
        "longest_hours": 41.5,
        "memory_bytes": 9_100_000_000,
        "discrete": False,
        "own_figures": False,
        "starts_from": "",
        "patients": {"train": 150, "val": 24, "test": 40},
        "declared": 150,
        "approvals": 2,
        "approvals_needed": 4,
        "since": text or "prostate-in-mr",
        "differences": (
            Difference("rounds", "12", "20"),
            Difference("epsilon", "3", "4"),
            Difference(
                "hospitals", "lyon, nagasaki, guangzhou-b", text or "lyon, nagasaki, porto, guangzhou-b"
            ),
        ),
        "terms": (
            ("work", "20 rounds of 10 steps and a final evaluation"),
            ("leaves", text or "masked sums only"),
        ),
    }
    return Card(**(values | changes))


def checked(study: str = "pneumothorax-on-films", label: str = "pneumothorax") -> Checked:
    """What a look at the images has found."""
    return Checked(
        study=study,
        task="classification",
        profile="xray",
        at=NOON - 7200,
        splits=(
            OfSplit(split="train", patients=842, images=1344),
            OfSplit(split="val", patients=120, images=201),
            OfSplit(split="test", patients=246, images=399),
        ),
        labels=(OfLabel(label="normal", images=1087), OfLabel(label=label, images=257)),
        problems=(
            Rejects(
                code="lateral-view",
                severity="error",
                reason="This is a film from the side.",
                remedy="Leave it out, or ask for a study of lateral films.",
                count=19,
            ),
            Rejects(
                code="burned-in-text",
                severity="warning",
                reason="There seems to be text in the picture.",
                remedy="Look at it.",
                count=2,
            ),
        ),
    )


def sent(count: int = 4) -> Leaves:
    """The newest transmissions."""
    kinds = (("keys", 1_200, None), ("shares", 2_000, False), ("masked-segment", 44_800_000, True))
    rows = tuple(
        Sent(NOON - 60 * k, *_sent(kinds[k % 3]), to="aggregator", hash=f"{HASH[k : k + 4].hex()} …")
        for k in range(count)
    )
    return Leaves(rows, 312, recorded=True)


def _sent(one: tuple[str, int, bool | None]) -> tuple[str, str, int, bool | None]:
    kind, size, masked = one
    return kind, "7", size, masked


def made_panels(studies: int = 1, text: str = "", *, requests: int | None = None) -> Panels:
    """Seven panels with this many studies, and a request beside them."""
    name = text[:48] if text else "pneumothorax-on-films"
    plans = tuple(
        plan_now(name if k == 0 else f"study-{k}", going=None if k else Going("training", 52, 180, 640.0))
        for k in range(studies)
    )
    asked = min(studies, 1) if requests is None else requests
    cards = tuple(card(k, text) for k in range(asked))
    others = tuple(
        card(90 + k, text, stands=stands)
        for k, stands in enumerate(("approved", "running", "finished"))
        if studies
    )
    refusal = Trouble(
        text or "This hospital allows no study without noise.",
        "It was not approved.",
        "Ask for noise.",
        "plan-refused",
    )
    refused = (card(99, text, stands="refused", refusal=refusal, patients={}),) if studies else ()
    rows = tuple(
        Spent(text or f"study-{k}", HASH.hex(), split, 5.21 / (k + 1), 7.42 / (k + 1))
        for k in range(studies)
        for split in ("train", "test")
    )
    calls = (Call("request", asked, "requests"),) if asked else ()
    return Panels(
        name="guangzhou-b",
        state=BigState("running" if plans else "waiting", plans, calls, True, NOON - 3600, heard=NOON),
        leaves=sent() if studies else Leaves(),
        data=Data(
            "folder",
            "/srv/films/2026",
            (checked(label=text or "pneumothorax"),) if studies else (),
            3_200_000,
        ),
        requests=Requests((*cards, *others, *refused), asked=NOON - 240),
        training=Training(
            plans[0],
            0.41,
            6_400_000_000,
            32_000_000_000,
            ("NVIDIA A2", 0.87, 9 * 2**30, 16 * 2**30),
            "19:00 to 06:00",
        )
        if plans
        else Training(),
        ledger=LedgerShown(
            rows, 5.21 if rows else 0.0, 7.42 if rows else 0.0, 8.0, 1e-5, 0.58 if rows else 8.0
        ),
        health=HealthShown(
            (
                Finding("done", "connected", {"at": NOON - 3600}),
                Finding("done", "disk", {"bytes": 412_000_000_000}),
                Finding("late", "authority", {"count": 19, "date": "2026-12-19"}),
                Finding(
                    "needs",
                    "problem",
                    {"at": NOON - 60, "what": text or "The line was cut.", "code": "unreachable"},
                    text or "medveil node doctor",
                ),
            ),
            "0.1.0",
            (Examined("disk", "412 GB free", ""), Examined("images", text or "no manifest", "Write one.")),
            NOON - 30,
            ((NOON - 100, "signed-in", "/", ""), (NOON - 200, "refused", "/ask", "page-cross-site")),
        ),
    )


class MadeReader:
    """Stands where the node's folder would be read."""

    def __init__(self, panels: Panels) -> None:
        self.now = panels

    def panels(self) -> Panels:
        """As a test has set it."""
        return self.now

    def change(self, **changes: Any) -> None:
        """Set some panels."""
        self.now = replace(self.now, **changes)


@dataclass
class Served:
    """A page that answers."""

    page: Page
    links: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.page.port}"

    @property
    def link(self) -> str:
        """The newest link in its terminal."""
        return self.links[-1]


@contextmanager
def served(node: Node, panels: Panels | None = None, **options: Any) -> Iterator[Served]:
    """A page on a free port, in a thread of its own.

    Args:
        panels: what it shows; the node's own folder if left out.
    """
    links: list[str] = []
    with listen(0) as listener:
        page = Page(node, listener.getsockname()[1], new_link=links.append, **options)
        if panels is not None:
            page.reader = MadeReader(panels)  # type: ignore[assignment]
            page.asking.due = lambda: False  # type: ignore[method-assign]
        page.show_link()
        server = server_of(page)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield Served(page, links)
        server.should_exit = True
        thread.join(10)


@dataclass
class Answer:
    """What the page says to one request."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Browser:
    """Sends what a test says, byte for byte, and keeps cookies."""

    page: Served
    cookies: dict[str, str] = field(default_factory=dict)

    def send(
        self, method: str, path: str, form: dict[str, str] | None = None, **headers: str | None
    ) -> Answer:
        """One request; headers by their name with underscores, None leaves one out."""
        own: dict[str, str | None] = {"Host": self.page.url.removeprefix("http://"), "Cookie": self._cookie()}
        if form is not None:
            own |= {"Origin": self.page.url, "Content-Type": "application/x-www-form-urlencoded"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        line = http.client.HTTPConnection("127.0.0.1", self.page.page.port, timeout=10)
        line.putrequest(method, path, skip_host=True)
        body = urllib.parse.urlencode(form or {}).encode()
        for name, value in own.items():
            if value:
                line.putheader(name, value)
        line.putheader("Content-Length", str(len(body)))
        line.endheaders(body)
        found = line.getresponse()
        told = {name.lower(): value for name, value in found.getheaders()}
        for cookie in found.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        answer = Answer(found.status, told, found.read().decode())
        line.close()
        return answer

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def enter(self) -> Browser:
        """Sign in by the newest link."""
        answer = self.send("GET", urllib.parse.urlsplit(self.page.link).path)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        return self

    def seal(self, action: str) -> str:
        """Of a form, as the page has it."""
        html = self.send("GET", "/").text
        found = re.search(rf'action="{re.escape(action)}".*?name="seal" value="([0-9a-f]+)"', html, re.S)
        assert found is not None, action
        return found[1]


def recorded(page: Served) -> list[tuple[str, str]]:
    """Events on the disk, as route and code."""
    lines = page.page.events.path.read_text().splitlines()
    return [(one["route"], one["code"]) for one in map(json.loads, lines)]
