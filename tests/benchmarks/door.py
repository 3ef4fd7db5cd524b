"""How an aggregator fares under a flood of malformed bodies: ``python tests/benchmarks/door.py``.

A real process over HTTPS. Strangers send bombs, most of them signed with a fresh key as an enrolment is; then
an enrolled hospital sends messages of megabytes. Meanwhile /healthz is asked again and again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from bombs import COLLIDING, head
from flood import Flood, flood, member, open_round, strangers
from served import served
from world import make_world


def line(what: str, bodies: int, result: Flood) -> str:
    """One row of the table."""
    health = sorted(result.health_s)
    return (
        f"{what:44} {bodies:6} {result.seconds:8.1f} s {1000 * health[len(health) // 2]:8.0f} ms "
        f"{1000 * health[-1]:8.0f} ms {result.grown / 2**20:+8.1f} MiB  {dict(result.answers)}"
    )


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name) / "world")
        world.admin.save(world.folder / "admin.key")
        make_certificates(world.folder / "tls", ("localhost", "127.0.0.1"))
        world.store.close()
        print(f"{'':44} bodies   seconds  /healthz: half    worst    memory  answers")
        with served(world.folder, Limits(requests_per_s=1e6, burst=10**6)) as server:
            flood(server, strangers, 80)
            print(line("strangers, bombs of every kind", 1_000, flood(server, strangers, 1_000)))
            open_round(server, world)
            for what, body in (
                ("a hospital, 4 MB of keys that collide", head(5, 199 * 1_700) + COLLIDING * 1_700),
                ("a hospital, 4 MB of empty maps", head(4, 4_000_000) + b"\xa0" * 4_000_000),
                ("a hospital, as many items as may be", head(4, 99_000) + b"\xa0" * 99_000),
            ):
                found = flood(server, lambda body=body: member(world.identities[0], world.plan.id, body), 80)
                print(line(what, 80, found))


if __name__ == "__main__":
    main()
