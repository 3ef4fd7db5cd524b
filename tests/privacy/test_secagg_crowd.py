"""Hundreds of hospitals in one process: sharing their work changes nothing but the time it takes."""

from __future__ import annotations

import numpy as np
import pytest

from crowd import SharedWork, crowd, watched_round
from linked import NEVER
from medveil.identity import BadSignature
from medveil.rounds import Phase
from privacy.encoding import EncodingParams
from privacy.secagg import keys, messages, node, server

PARAMS = EncodingParams(64, 0, 21, clip=1.0, max_weight=100, cohort=12)


def test_hospitals_that_share_work_find_the_exact_sum_with_and_without_dropouts() -> None:
    for silent in ({}, {2: NEVER // 2, 5: NEVER // 2, 7: 1}):
        world = crowd(12, PARAMS)
        with SharedWork():
            total = world.run(silent)
        assert np.array_equal(total, world.plain_sum())
        assert set(world.server.survivors) == set(world.hospitals) - set(silent)


def test_a_false_signature_is_refused_by_all_who_share_work() -> None:
    world = crowd(4, PARAMS).play_until(Phase.SHARE)
    good = world.server.advertised[2]
    false = good.model_copy(update={"mask_key": world.server.advertised[3].mask_key})
    setting = world.server.setting
    with SharedWork():
        for _ in range(2):
            good.check(setting.roster[2], setting.context, b"")
            with pytest.raises(BadSignature):
                false.check(setting.roster[2], setting.context, b"")
            with pytest.raises(BadSignature):
                good.check(setting.roster[3], setting.context, b"")


def test_nothing_is_shared_after_leaving() -> None:
    before = (keys._exchange, messages.Signed.check, node.transcript_of, server.check_public_key)
    with SharedWork():
        assert keys._exchange is not before[0]
    assert (keys._exchange, messages.Signed.check, node.transcript_of, server.check_public_key) == before


def test_a_watched_hospital_sends_and_reads_the_bytes_of_its_messages() -> None:
    traffic = watched_round(crowd(6, PARAMS), (1, 6))
    for seen in traffic.values():
        assert set(seen.up) == {*Phase} - {Phase.ABORT, Phase.DONE, Phase.FAILED}
        assert seen.down[Phase.ADVERTISE] == seen.down[Phase.COMMIT] == 0
        assert all(seen.up.values())
        assert seen.total == sum(seen.up.values()) + sum(seen.down.values())
