"""Masked updates, and everybody may die: what is summed is what the devices trained."""

import signal
import sys
from pathlib import Path

import msgpack
import numpy as np
import numpy.typing as npt
import pytest

from aggregator.store import FAULT_POINTS
from device_sdk.pending import PENDING, RESIDUAL, unpack_pending, unpack_residual
from device_sdk.storage import Storage
from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.refusals import RECOVERY_FAILED
from protocol.secagg import scheme
from protocol.secagg.messages import RecoveryAnswer
from protocol.vectors.sparse import decode_indices
from tests.support.audit import audit, steps
from tests.support.bus_client import BusClient
from tests.support.federation import TASK, TOPICS
from tests.support.moments import seeded
from tests.support.mosquitto import PERSISTENT
from tests.support.secure_federation import SecureFederation

pytestmark = pytest.mark.broker

TWELVE = tuple(f"device-{number:02}" for number in range(1, 13))
SIX = ("ada", "ben", "cleo", "dan", "eve", "finn")
FOUR = SIX[:4]
NINE = TWELVE[:9]
ALL_FOUR = {"buffered": {"goal": 4, "max_wait_s": 3600.0, "min_contributors": 3}}


@pytest.mark.parametrize("name", ["seedmask", "lightsecagg"])
def test_four_dead_devices_and_a_dead_aggregator_leave_the_sum_of_the_plain_updates(
    tmp_path: Path, name: str
) -> None:
    """N, t, T, U = 12, 1, 6, 8: every device that is left must answer."""
    secure = {"scheme": name, "malicious": 1, "noise": 6, "answers": 8}
    task = {"buffered": {"goal": 12, "max_wait_s": 3600.0, "min_contributors": 3}}
    dead, holders, last = TWELVE[:4], TWELVE[4:-1], TWELVE[-1]
    with SecureFederation(tmp_path, TWELVE, secure=secure, task=task) as federation:
        federation.start_aggregator()
        for number, device in enumerate(TWELVE):
            slow = "1.5" if device == last else "0.05"
            samples = str(8 + number % 10)
            federation.start_device(device, "--num-samples", samples, "--train-s", slow)
        federation.grows(1)
        federation.until(
            lambda: federation.journalled == set(TWELVE[:-1]) and federation.training == {last},
            "eleven updates, and one in the making",
        )
        federation.signal(last, signal.SIGSTOP)
        version = federation.version
        for device in dead:
            federation.kill(device)
        for device in holders:
            federation.signal(device, signal.SIGSTOP)
        federation.signal(last, signal.SIGCONT)
        federation.until(
            lambda: [each["updates"] for each in federation.recoveries] == [12], "no recovery"
        )
        federation.kill("aggregator")
        assert (federation.requests, federation.journalled) == (1, set(TWELVE))
        federation.start_aggregator()
        federation.until(lambda: federation.monitor.report("metrics")["starts"] == 2, "not back")
        federation.until(lambda: federation.recoveries, "forgot what it asked for")
        assert federation.version == version
        for device in holders:
            federation.signal(device, signal.SIGCONT)
        federation.until(lambda: federation.version > version, "no sum")
        for device in dead:
            federation.start_device(device)
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def test_a_killed_aggregator_asks_for_the_same_groups_again(
    tmp_path: Path,
) -> None:
    """N, t, T, U = 9, 1, 5, 7, groups of three; with rule "mean" the audit knows the step."""
    task = {"buffered": {"goal": 9, "max_wait_s": 3600.0, "min_contributors": 9}}
    robust = {"group": 3, "attackers": 0.1, "rule": "mean"}
    last, holders = NINE[-1], NINE[:3]
    with SecureFederation(tmp_path, NINE, robust=robust, task=task) as federation:
        federation.start_aggregator()
        for device in NINE:
            federation.start_device(device, "--train-s", "1.5" if device == last else "0.05")
        federation.grows(1)
        federation.until(
            lambda: federation.journalled == set(NINE[:-1]) and federation.training == {last},
            "eight updates, and one in the making",
        )
        for device in holders:
            federation.signal(device, signal.SIGSTOP)
        federation.until(
            lambda: [each["updates"] for each in federation.recoveries] == [3, 3, 3], "no groups"
        )
        version = federation.version
        federation.kill("aggregator")
        assert (federation.requests, federation.journalled) == (3, set(NINE))
        federation.start_aggregator()
        federation.until(lambda: len(federation.recoveries) == 3, "forgot what it asked for")
        assert federation.version == version
        for device in holders:
            federation.signal(device, signal.SIGCONT)
        federation.until(lambda: federation.version > version, "no sum")
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def test_killed_at_every_boundary_of_its_store_every_mask_is_summed_once(tmp_path: Path) -> None:
    """N, t, T, U = 6, 1, 3, 5."""
    moments = seeded()
    with SecureFederation(tmp_path, SIX, task=ALL_FOUR) as federation:
        federation.start()
        federation.grows()
        for point in FAULT_POINTS:
            rare = point in {"journal:created", "segment:deleted"}
            nth = 1 if rare else moments.randint(1, 20)
            kill_with_a_journal(federation)
            federation.start_aggregator("--kill-at", point, str(nth))
            federation.until(
                lambda: not federation.is_running("aggregator"), f"never passed {point} {nth}"
            )
            assert federation.status("aggregator") == -signal.SIGKILL
        federation.kill("aggregator")
        federation.start_aggregator()
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def kill_with_a_journal(federation: SecureFederation) -> None:
    """Kill the aggregator at a moment when updates wait: only then a segment is deleted later."""
    federation.kill("aggregator")
    while not federation.journalled:
        federation.start_aggregator()
        federation.grows(1)
        federation.kill("aggregator")


def test_a_device_killed_after_storing_its_answer_says_that_one_and_no_other(
    tmp_path: Path,
) -> None:
    """N, t, T, U = 4, 1, 2, 4: without its answer there is no sum."""
    with SecureFederation(tmp_path, FOUR, task=ALL_FOUR, broker=PERSISTENT) as federation:
        federation.start()
        federation.grows(1)
        federation.kill("ada")
        with BusClient(federation.broker.port, "eavesdropper", TOPICS.out("ada")) as bus:
            federation.start_device("ada", "--die-answering", "2")
            federation.until(lambda: not federation.is_running("ada"), "nothing was stored")
            _, hash_, _, _, elements, masks = msgpack.unpackb(newest_answer(federation))
            bus.settle()
            assert hash_ not in answers(bus)
            used = {f"share-{dealer}-{counter:016x}" for dealer, counter in masks}
            assert used <= federation.stored_shares("ada"), "it died too late"
            version = federation.version
            federation.start_device("ada")
            federation.until(lambda: federation.version > version, "no sum")
            bus.settle()
            assert answers(bus)[hash_] == {elements}
        federation.kill("ada")
        assert not used & federation.stored_shares("ada")
        federation.start_device("ada")
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def newest_answer(federation: SecureFederation) -> bytes:
    """Return what ada, who is dead, has stored of its newest answer."""
    return max(federation.stored_answers("ada").items())[1]


def answers(bus: BusClient) -> dict[bytes, set[bytes]]:
    """Return what ada has answered so far, by request."""
    found: dict[bytes, set[bytes]] = {}
    for _, payload in bus.messages:
        try:
            answer = decode(payload, (RecoveryAnswer,), task=TASK, sender="ada")
        except RemoteProtocolError:
            continue
        found.setdefault(answer.request_hash, set()).add(answer.elements)
    return found


def dies_answering(federation: SecureFederation, *names: str) -> None:
    """Start devices anew; each dies when it has stored its first answer, before it is said."""
    for name in names:
        federation.kill(name)
    for name in names:
        federation.start_device(name, "--die-answering", "1")
    federation.until(lambda: not any(map(federation.is_running, names)), "never asked")


def test_a_broker_killed_during_a_recovery_delays_it(tmp_path: Path) -> None:
    with SecureFederation(tmp_path, FOUR, task=ALL_FOUR) as federation:
        federation.start()
        federation.grows(1)
        for _ in range(3):
            dies_answering(federation, "ada")
            version = federation.version
            federation.broker.kill()
            federation.start_device("ada")
            federation.broker.start()
            federation.until(lambda at=version: federation.version > at, "no sum")  # type: ignore[misc]
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def test_one_that_slept_while_shares_came_answers_for_one_that_died(tmp_path: Path) -> None:
    """N, t, T, U = 6, 1, 3, 5: when the buffer closes only the five that are awake hold shares."""
    with SecureFederation(tmp_path, SIX, task=ALL_FOUR) as federation:
        federation.start()
        federation.grows(1)
        federation.kill("finn")
        federation.grows(4)  # by now nobody uses a mask that finn has
        dies_answering(federation, "eve")
        federation.until(
            lambda: [each["answers"] for each in federation.recoveries] == [4], "no recovery"
        )
        version = federation.version
        federation.start_device("finn")
        federation.until(lambda: federation.version > version, "finn is not asked")
        federation.start_device("eve")
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")


def test_an_epoch_that_ends_without_enough_answers_costs_nobody_what_it_learned(
    tmp_path: Path,
) -> None:
    """N, t, T, U = 6, 1, 3, 5, then without the two that died 4, 1, 2, 4."""
    secure = {"support": "plan-0.5", "support_every": 5}
    dead, left = SIX[4:], SIX[:4]
    with SecureFederation(tmp_path, SIX, secure=secure, valid_s=15, task=ALL_FOUR) as federation:
        federation.start()
        federation.grows(2)
        dies_answering(federation, *dead)
        federation.until(
            lambda: [each["answers"] for each in federation.recoveries] == [4], "no recovery"
        )
        federation.lay_next_roster(remove=dead)
        federation.until(lambda: federation.refused.get(RECOVERY_FAILED), "never given up")
        federation.until(
            lambda: any(federation.record(name).refusals for name in left), "nobody is told"
        )
        federation.grows(3)
        federation.stop()
        assert federation.roster.epoch == 2
        sys.stdout.write(f"{audit(federation, allowed={RECOVERY_FAILED})}\n")
        assert_nothing_is_lost(federation)


def assert_nothing_is_lost(federation: SecureFederation) -> None:
    """What all devices ever trained and masked is in the model, or in their residuals."""
    made = {name: federation.record(name) for name in federation.devices}
    trained = [record.trained[key][1] for record in made.values() for key in record.stored]
    moved = steps(federation)
    counted = {key for ids, _ in moved for key in ids}
    learned = sum(len(ids) * step for ids, step in moved)
    unsent = [residual(federation, name, counted) for name in federation.devices]
    given = federation.parameters(len(federation.devices))
    noise = len(moved) * scheme(given.scheme).noise_bound(given, given.max_contributors)
    bound = noise / given.scale + len(trained) * np.finfo(np.float32).eps
    error = np.abs(np.sum(trained, axis=0) - learned - np.sum(unsent, axis=0)).max()
    sys.stdout.write(f"{len(trained)} deltas, {error:.1e} lost of all, the bound is {bound:.1e}\n")
    assert error <= bound < np.abs(trained).max() / 20


def residual(
    federation: SecureFederation, name: str, counted: set[bytes]
) -> npt.NDArray[np.float64]:
    """Return what a dead device has trained and the model has not got."""
    stored = Storage(federation.state_dir(name)).load()
    if PENDING not in stored:
        return np.frombuffer(unpack_residual(stored[RESIDUAL]).values, "<f4").astype(np.float64)
    pending = unpack_pending(stored[PENDING])
    values = np.frombuffer(pending.residual, "<f4").astype(np.float64)
    if pending.lease_id not in counted:
        sent = np.frombuffer(pending.sent, "<f4")
        values[decode_indices(pending.indices, values.size, sent.size)] += sent
    return values
