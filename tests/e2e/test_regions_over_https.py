"""Two hospitals send by way of a relay over real HTTPS; the relay is killed, and no round is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aggregator.admin import new_token, opened
from aggregator.relay.set_up import enrol_relay, set_up_relay
from hospital_node.enrolment import set_relay
from medveil.plan import Plan
from medveil.study import Deadlines
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.ports import free_port
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study

LIMIT_S = 600.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class WithRelay(LocalConsortium):
    """A local consortium in which the first two hospitals have a relay."""

    def _start(self, name: str, command: list[str]) -> None:
        if name == self.sites[0].name:
            self._open_relay()
        super()._start(name, command)

    def _open_relay(self) -> None:
        folder, port = self.folder / "relay", free_port()
        told = {
            "name": "north",
            "aggregator": self._settings.url,
            "hospitals": [site.name for site in self.sites[:2]],
            "port": port,
            "names": ["127.0.0.1", "localhost"],
        }
        set_up_relay(folder, self._authority, told)
        enrol_relay(folder, new_token(self._settings, "north", "relay"))
        for site in self.sites[:2]:
            set_relay(self._nodes[site.name], f"https://127.0.0.1:{port}", folder / "tls" / "ca.pem")
        with opened(self._settings) as store:
            store.register.grant(store.register.plan_ids()[0], "north")
        super()._start("relay", ["aggregator", "relay", "serve", "--folder", str(folder)])


def test_a_study_runs_by_way_of_a_relay_and_goes_on_when_it_is_killed(tmp_path: Path) -> None:
    write_phantom_sites(tmp_path / "sites", profile="xray", task="classification", hospitals=4, patients=12)
    study, initial = new_study(
        StudyOptions(
            name="regions",
            task="classification",
            profile="xray",
            hospitals=4,
            rounds=4,
            patients_hint=12,
            deadlines=Deadlines(**DEADLINES),
            privacy="none",
            anyway=True,
        )
    )
    events: list[tuple[str, str]] = []
    with WithRelay(
        tmp_path,
        find_sites(tmp_path / "sites"),
        lambda who, event: events.append((who, str(event.get("event")))),
    ) as consortium:
        plan: Plan = consortium.open(study, initial)
        deadline, killed = time.monotonic() + LIMIT_S, False
        while time.monotonic() < deadline:
            status = consortium.client.status(plan.id)
            if not killed and ("relay", "region.sent") in events:
                consortium.kill("relay")
                killed = True
            consortium.check()
            if status.finished:
                break
            time.sleep(0.2)
        assert status.finished
    assert killed
    assert [(a.attempt, len(a.survivors)) for a in status.attempts] == [(1, 4)] * 5
    sent = {who for who, event in events if event == "relay.passed-over"}
    assert sent == {
        site.name for site in consortium.sites[:2]
    }  # after the relay was killed they sent themselves
