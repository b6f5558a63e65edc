"""Rules taken away one at a time, to see that the attacks succeed where a rule is missing."""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from device_sdk import session
from device_sdk.answers import Answers
from device_sdk.holding import Holder
from device_sdk.plan import TrainingPlan, read_plan
from protocol.messages import Plan
from protocol.secagg import keys, roster, sealing, seedmask
from protocol.secagg.field import Elements
from protocol.secagg.parameters import Parameters
from protocol.secagg.requests import Asked
from protocol.secagg.ring import DEGREE

Weaken = Callable[[pytest.MonkeyPatch], None]


def shares_unsealed(patch: pytest.MonkeyPatch) -> None:
    """Shares travel signed, but in the open."""
    patch.setattr(
        sealing, "crypto_aead_xchacha20poly1305_ietf_encrypt", lambda data, _aad, _nonce, _key: data
    )
    patch.setattr(
        sealing, "crypto_aead_xchacha20poly1305_ietf_decrypt", lambda data, _aad, _nonce, _key: data
    )


def holder_answers_twice(patch: pytest.MonkeyPatch) -> None:
    """Shares are kept after an answer, and nobody asks whether they were used."""
    patch.setattr(Holder, "_erase", lambda _self, _masks: [])
    patch.setattr(Holder, "_check_unused", lambda _self, _asked: None)


def too_little_noise(patch: pytest.MonkeyPatch) -> None:
    """T and U may be so small that two halves of a cohort can decode."""
    patch.setattr(Parameters, "_check_cohort", lambda _self: None)


def roster_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Anybody may sign a roster."""
    check = keys.check_signature

    def check_others(public: bytes, purpose: bytes, data: bytes, signature: bytes) -> None:
        if purpose != keys.ROSTER:
            check(public, purpose, data, signature)

    patch.setattr(keys, "check_signature", check_others)


def one_is_enough(patch: pytest.MonkeyPatch) -> None:
    """A sum may be over one device."""
    patch.setattr(Parameters, "_check_contributors", lambda _self: None)
    patch.setattr(roster, "MIN_COHORT", 1)


def request_known_by_its_members(patch: pytest.MonkeyPatch) -> None:
    """A request from the same members is taken for the same one, and the answer made again."""
    check = Holder._check_unused
    answered: dict[Holder, set[frozenset[int]]] = {}

    def check_others(self: Holder, asked: Asked) -> None:
        known, members = answered.setdefault(self, set()), frozenset(asked.buffer)
        if members not in known:
            check(self, asked)
        known.add(members)

    patch.setattr(Holder, "_check_unused", check_others)
    patch.setattr(Holder, "_erase", lambda _self, _masks: [])


def mask_ids_not_compared(patch: pytest.MonkeyPatch) -> None:
    """A holder takes shares without asking whether it has answered for this mask before."""
    patch.setattr(Answers, "is_used", lambda _self, _mask: False)
    patch.setattr(Answers, "with_mask", lambda _self, _mask: None)
    patch.setattr(Answers, "overlapping", lambda _self, _asked: None)


def a_is_received(patch: pytest.MonkeyPatch) -> None:
    """The public polynomial comes with the plan, if it is there."""
    received: dict[str, int] = {}
    derived = seedmask._public

    def read(plan: Plan) -> TrainingPlan:
        training: Mapping[str, Mapping[str, int]] = json.loads(plan.training)
        received.clear()
        received.update(training.get("public", {}))
        return read_plan(plan)

    def public(seed: bytes, num_blocks: int) -> Elements:
        if "a" in received:
            return np.full((num_blocks, DEGREE), received["a"], np.int64)
        return derived(seed, num_blocks)

    patch.setattr(session, "read_plan", read)
    patch.setattr(seedmask, "_public", public)
