"""Flower's SecAgg+ client code, driven by a lying server. Needs ``requirements/peers.txt``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lying_server import KEY, SELF, Lists, Released, Values
from peers import MODULUS, flower

CLIP, STEPS, WEIGHT, MAX_WEIGHT = 8.0, 2**22, 500, 1000.0


class FlowerRound:
    """Clients of Flower's ``secaggplus_mod``: every step behind its own checks of stage and contents."""

    def __init__(self, size: int = 5, length: int = 8) -> None:
        self.size, self.threshold = size, size // 2 + 1
        self._mod = flower("client.mod.secure_aggregation.secaggplus_mod")
        self._helpers = flower("common.secure_aggregation.secaggplus_utils")
        self._shamir = flower("common.secure_aggregation.crypto.shamir")
        self._symmetric = flower("common.secure_aggregation.crypto.symmetric_encryption")
        self._asymmetric = flower("supercore.primitives.asymmetric")
        self._quantization = flower("common.secure_aggregation.quantization")
        self._key = flower("common.secure_aggregation.secaggplus_constants").Key
        self._stage = flower("common.secure_aggregation.secaggplus_constants").Stage
        self._common = flower("common")
        draw = np.random.default_rng(1)
        self._updates = {i: draw.uniform(-1, 1, length) for i in range(1, size + 1)}
        self._clients = {i: self._mod.SecAggPlusState(nid=i) for i in self._updates}
        self._keys: dict[str, list[bytes]] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._uploads: dict[int, list[Any]] = {}
        self._impostor: dict[int, tuple[Any, ...]] = {}

    @property
    def step(self) -> float:
        """One quantisation step of a client's update, which is multiplied by its weight first."""
        return 2 * CLIP / STEPS / (WEIGHT / MAX_WEIGHT)

    def update(self, index: int) -> Values:
        """See :class:`lying_server.Round`."""
        return self._updates[index]

    def play(self, *, threshold: int | None = None, impostor_for: int | None = None) -> bool:
        """See :class:`lying_server.Round`."""
        self.threshold = threshold or self.threshold
        try:
            for i in self._clients:
                answer = self._step(i, self._stage.SETUP, self._settings())
                self._keys[str(i)] = [answer[self._key.PUBLIC_KEY_1], answer[self._key.PUBLIC_KEY_2]]
            self._boxes = {i: {} for i in self._clients}
            for i in self._clients:
                shown = self._forged(i) if i == impostor_for else dict(self._keys)
                answer = self._step(i, self._stage.SHARE_KEYS, shown)
                sealed = zip(
                    answer[self._key.DESTINATION_LIST], answer[self._key.CIPHERTEXT_LIST], strict=True
                )
                for receiver, box in sealed:
                    self._boxes[receiver][i] = box
            if impostor_for is not None:
                # What the others dealt to the victim was sealed for its real keys; it gets the server's own.
                self._boxes[impostor_for] = self._boxes_of_the_impostor(impostor_for)
            for i in self._clients if impostor_for is None else [impostor_for]:
                self._uploads[i] = self._upload(i, self._updates[i])
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def press(self, told: Mapping[int, Lists]) -> Released:
        """See :class:`lying_server.Round`."""
        released: Released = {}
        for i, (alive, dropped) in told.items():
            lists = {
                self._key.ACTIVE_NODE_ID_LIST: list(alive),
                self._key.DEAD_NODE_ID_LIST: list(dropped),
            }
            try:
                shares = self._step(i, self._stage.UNMASK, lists)[self._key.SHARE_LIST]
            except (ValueError, KeyError, TypeError):
                continue
            owners = [(SELF, j) for j in alive] + [(KEY, j) for j in dropped]
            for owner, share in zip(owners, shares, strict=True):
                released.setdefault(owner, {})[i] = share
        return released

    def opened(self, victim: int, released: Released) -> Values | None:
        """See :class:`lying_server.Round`."""
        secrets = {
            owner: self._combined(shares)
            for owner, shares in released.items()
            if len(shares) >= self.threshold
        }
        if (SELF, victim) not in secrets:
            return None
        keys = {}
        for other in self._clients:
            if other != victim:
                mine, theirs = secrets.get((KEY, victim)), secrets.get((KEY, other))
                if mine is None and theirs is None:
                    return None
                keys[other] = self._agreed(mine, other) if mine is not None else self._agreed(theirs, victim)
        return self._stripped(victim, secrets[SELF, victim], keys)

    def opened_as_impostor(self, victim: int) -> Values | None:
        """See :class:`lying_server.Round`."""
        shares = []
        for other in self._clients:
            if other != victim:
                channel = self._symmetric.generate_shared_key(
                    self._impostor[other][1], self._public(victim, 1)
                )
                plain = self._symmetric.decrypt(channel, self._boxes[other][victim])
                shares.append(self._helpers.share_keys_plaintext_separate(plain)[2])
        keys = {
            other: self._symmetric.generate_shared_key(self._impostor[other][0], self._public(victim, 0))
            for other in self._clients
            if other != victim
        }
        seed = self._shamir.combine_shares(shares[: self.threshold])
        return self._stripped(victim, seed, keys)

    def uploaded_again(self, victim: int, update: Values) -> Values | None:
        """See :class:`lying_server.Round`."""
        try:
            again = self._upload(victim, update)
        except (ValueError, KeyError, TypeError):
            return None
        return np.subtract(self._uploads[victim][1], again[1])

    def honest_mean(self) -> Values:
        """See :class:`lying_server.Round`."""
        everybody = list(self._clients)
        released = self.press({i: (everybody, []) for i in everybody})
        total = sum(self._uploads[i][1] for i in everybody)
        weights = sum(self._uploads[i][0] for i in everybody)
        for i in everybody:
            seed = self._combined(released[SELF, i])
            pads = self._pads(seed, i)
            total, weights = total - pads[1], weights - pads[0]
        return self._floats(total % MODULUS, int(weights[0] % MODULUS), len(everybody))

    def mask_seed(self) -> int:
        """The 32-bit number that Flower folds a pair's key into; a mask depends on nothing else."""
        mine, _ = self._asymmetric.generate_key_pairs()
        _, theirs = self._asymmetric.generate_key_pairs()
        key = self._symmetric.generate_shared_key(mine, theirs)
        seed = 0
        for start in range(0, len(key), 4):
            seed ^= int.from_bytes(key[start : start + 4], "little")
        folded = self._helpers.pseudo_rand_gen(seed.to_bytes(4, "little"), MODULUS, [(8,)])
        assert np.array_equal(folded[0], self._helpers.pseudo_rand_gen(key, MODULUS, [(8,)])[0])
        return seed

    def _settings(self) -> dict[str, Any]:
        return {
            self._key.SAMPLE_NUMBER: self.size,
            self._key.SHARE_NUMBER: self.size,
            self._key.THRESHOLD: self.threshold,
            self._key.CLIPPING_RANGE: CLIP,
            self._key.TARGET_RANGE: STEPS,
            self._key.MOD_RANGE: MODULUS,
            self._key.MAX_WEIGHT: MAX_WEIGHT,
        }

    def _step(self, index: int, stage: str, contents: dict[str, Any], update: Values | None = None) -> Any:
        """One stage as ``secaggplus_mod`` runs it: check the stage, check the contents, then the step."""
        client = self._clients[index]
        configs = self._common.ConfigRecord({**contents, self._key.STAGE: stage})
        self._mod.check_stage(client.current_stage, configs)
        client.current_stage = str(configs.pop(self._key.STAGE))
        self._mod.check_configs(client.current_stage, configs)
        if stage == self._stage.SETUP:
            return self._mod._setup(client, configs)
        if stage == self._stage.SHARE_KEYS:
            return self._mod._share_keys(client, configs)
        if stage == self._stage.UNMASK:
            return self._mod._unmask(client, configs)
        parameters = self._common.ndarrays_to_parameters([np.asarray(update)])
        return self._mod._collect_masked_vectors(client, configs, WEIGHT, parameters)

    def _upload(self, index: int, update: Values) -> list[Any]:
        box = self._boxes[index]
        contents = {self._key.SOURCE_LIST: list(box), self._key.CIPHERTEXT_LIST: list(box.values())}
        answer = self._step(index, self._stage.COLLECT_MASKED_VECTORS, contents, update)
        return [self._common.bytes_to_ndarray(part) for part in answer[self._key.MASKED_PARAMETERS]]

    def _forged(self, victim: int) -> dict[str, list[bytes]]:
        shown = {str(victim): self._keys[str(victim)]}
        for other in self._clients:
            if other != victim:
                pairs = [self._asymmetric.generate_key_pairs() for _ in range(2)]
                self._impostor[other] = tuple(private for private, _ in pairs)
                shown[str(other)] = [self._asymmetric.public_key_to_bytes(public) for _, public in pairs]
        return shown

    def _boxes_of_the_impostor(self, victim: int) -> dict[int, bytes]:
        boxes = {}
        for other, (_, channel) in self._impostor.items():
            key = self._symmetric.generate_shared_key(channel, self._public(victim, 1))
            empty = self._helpers.share_keys_plaintext_concat(other, victim, b"", b"")
            boxes[other] = self._symmetric.encrypt(key, empty)
        return boxes

    def _public(self, index: int, which: int) -> Any:
        return self._asymmetric.bytes_to_public_key(self._keys[str(index)][which])

    def _combined(self, shares: Mapping[int, bytes]) -> bytes:
        return bytes(self._shamir.combine_shares(list(shares.values())[: self.threshold]))

    def _agreed(self, private: bytes, other: int) -> bytes:
        """The key from which two clients expand their mask."""
        key = self._asymmetric.bytes_to_private_key(private)
        return bytes(self._symmetric.generate_shared_key(key, self._public(other, 0)))

    def _pads(self, seed: bytes, index: int) -> list[Any]:
        shapes = [part.shape for part in self._uploads[index]]
        return list(self._helpers.pseudo_rand_gen(seed, MODULUS, shapes))

    def _stripped(self, victim: int, seed: bytes, keys: Mapping[int, bytes]) -> Values:
        words = [
            part - pad for part, pad in zip(self._uploads[victim], self._pads(seed, victim), strict=True)
        ]
        for other, key in keys.items():
            sign = 1 if victim > other else -1
            words = [part - sign * pad for part, pad in zip(words, self._pads(key, victim), strict=True)]
        return self._floats(words[1] % MODULUS, int(words[0][0] % MODULUS), 1)

    def _floats(self, words: Any, weight: int, clients: int) -> Values:
        plain = words.astype(np.float64) * (2 * CLIP / STEPS) - clients * CLIP
        return np.asarray(plain / (weight / STEPS))
