"""What is answered before anybody is known: no redirect to a made-up host."""

from __future__ import annotations

from collections.abc import Callable

from door import Door
from world import World


def test_no_answer_sends_anybody_to_the_host_that_the_asker_names(build: Callable[..., World]) -> None:
    door = Door(build())
    for path in ("/healthz/", "/v1/plans/", "/v1/status/"):
        answer = door.raw("GET", path, b"", {"Host": "evil.example"})
        door.refused(answer, 404, "not-found")
        assert "location" not in answer.headers
        assert "evil" not in answer.text + str(answer.headers)
    door.service.close()
