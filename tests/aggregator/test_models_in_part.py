"""Who has the beginning of a model gets the rest of it; everything else that is asked for gets the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from door import Door
from medveil.identity import sign_request
from medveil.plan import Plan
from world import World, model_in


@pytest.fixture
def door(build: Callable[..., World]) -> Door:
    return Door(build())


def test_the_rest_of_a_model_is_sent_and_anything_odd_gets_the_whole(door: Door) -> None:
    name = door.world.plan.study.model.initial_model
    whole, path = model_in(door.world.blobs, name), f"{door.at}/models/{name}"
    size = len(whole)
    for asked, start in [
        ("bytes=0-", 0), ("bytes=1-", 1), (f"bytes={size - 1}-", size - 1), (f"bytes={size}-", 0),
        ("bytes=-5", 0), ("bytes=5-9", 0), ("bytes=1-,2-", 0), ("bytes=+1-", 0), ("lines=1-", 0),
    ]:  # fmt: skip
        headers = sign_request(door.hospital(), "GET", path, b"").headers() | {"range": asked.encode()}
        answer = door.raw("GET", path, b"", headers)
        assert (answer.status_code, answer.content) == (206 if start else 200, whole[start:])
        assert answer.headers["content-length"] == str(size - start)
        told = answer.headers.get("content-range")
        assert told == (f"bytes {start}-{size - 1}/{size}" if start else None)


def test_a_plan_is_told_with_all_that_its_hash_is_made_of(door: Door) -> None:
    answer = door.ask(door.hospital(), "GET", door.at)
    assert Plan.model_validate(answer.json()).id == door.world.plan.id
