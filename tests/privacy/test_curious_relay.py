"""A curious relay, and one with the aggregator's place and key: what they learn of one device.

Each attack must fail on the rules as they are, and the same attack must succeed on a copy of which
one rule is taken away: so it is known to bite.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from device_sdk.identity import read_keys
from fedbus.key_files import read_key
from protocol.refusals import BAD_SIGNATURE, MASK_USED, REPLAYED, UNKNOWN_KEY, WRONG_MEMBERS
from tests.privacy import attacks, weakened
from tests.privacy.attacks import Attacker, Guesses
from tests.privacy.byte_log import ByteLog
from tests.privacy.reading import Guess, Mask, Reader, Spoils
from tests.privacy.table import MODEL, NAMES, Table, Vector
from tests.privacy.tap import Tap
from tests.support.enrolment import Overrides
from tests.support.federation import TASK, TOPICS, Settings
from tests.support.mosquitto import OPEN, require_mosquitto
from tests.support.secure_federation import SecureFederation

#: Less is chance; one update of 972 numbers.
CHANCE = 0.2
FOUND = 0.99
INSIDER = NAMES[-1]
#: What a device counts that does not take a message for the aggregator's, or not for a new one.
UNHEARD = {f"refused_{reason}" for reason in (BAD_SIGNATURE, UNKNOWN_KEY, REPLAYED)}
#: So many versions are there before the attacker takes over.
NUM_SUMS = 3


class Case(NamedTuple):
    """An attack, and the rule without which it succeeds, with parameters that allow it then.

    ``unproven`` is what devices count if what is inside an envelope lacks somebody's signature.
    """

    attack: Callable[[Attacker], Guesses]
    without: weakened.Weaken
    weak: Overrides
    unproven: frozenset[str] = frozenset()


CASES = {
    "a": Case(attacks.read_relayed_shares, weakened.shares_unsealed, {}),
    "b": Case(attacks.ask_again_without_one, weakened.holder_answers_twice, {}),
    "c": Case(
        attacks.show_halves_different_sums,
        weakened.too_little_noise,
        {"num_noise": 2, "num_answers": 3},
    ),
    "d": Case(
        attacks.invent_members,
        weakened.roster_unchecked,
        {},
        frozenset({f"refused_{BAD_SIGNATURE}"}),
    ),
    "e": Case(attacks.ask_for_one, weakened.one_is_enough, {"min_contributors": 1}),
    "f": Case(attacks.replay_with_another_mask, weakened.request_known_by_its_members, {}),
    "g": Case(attacks.deal_used_shares_again, weakened.mask_ids_not_compared, {}),
    "h": Case(attacks.choose_a, weakened.a_is_received, {}),
}


def best(guesses: Iterable[Guess], reader: Reader, trained: Mapping[bytes, Vector]) -> float:
    """Return the highest correlation of a guess with what it is a guess of; 0 without any."""
    reader.log.read()
    leases: dict[Mask, bytes] = {
        (device, update.counter): lease_id
        for lease_id, (device, update) in reader.log.updates.items()
    }
    found = [0.0]
    for guess in guesses:
        truth = sum(times * trained[leases[mask]] for mask, times in guess.of.items())
        found.append(abs(float(np.corrcoef(guess.values, truth)[0, 1])))
    return max(found)


def attacked(folder: Path, case: Case, overrides: Overrides) -> float:
    """Let four devices' updates be summed, twice; attack; return how good the best guess is."""
    table = Table(folder, **overrides)
    table.sums(*NAMES[:4])
    table.sums(*NAMES[2:6])
    attacker = table.attacker(INSIDER)
    guesses = case.attack(attacker)
    found = best(guesses, attacker, table.trained)
    unheard = UNHEARD.intersection(table.counts)
    assert unheard <= case.unproven, "an envelope was refused: the attack was not tried"
    sys.stdout.write(f"{case.attack.__name__}: {len(guesses)} guesses, correlation {found:.4f}\n")
    return found


@pytest.mark.parametrize("letter", CASES)
def test_an_attack_fails(tmp_path: Path, letter: str) -> None:
    assert attacked(tmp_path, CASES[letter], {}) < CHANCE


@pytest.mark.parametrize("letter", CASES)
def test_it_succeeds_where_its_rule_is_missing(
    tmp_path: Path, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[letter]
    case.without(monkeypatch)
    assert attacked(tmp_path, case, case.weak) > FOUND


@pytest.mark.broker
def test_all_of_them_fail_against_processes_on_a_real_broker(tmp_path: Path) -> None:
    with taken_over(tmp_path) as (federation, attacker):
        # (c) is last: it uses up masks.
        found = {letter: tried(letter, federation, attacker) for letter in "abgefdhc"}
        assert max(found.values()) < CHANCE
        assert attacker.refused() == {MASK_USED, WRONG_MEMBERS}
        everybody = [federation.monitor.latest(TOPICS.telemetry(name)) for name in NAMES]
        assert any(b'"conflicting_requests"' in said for said in everybody)


@pytest.mark.broker
def test_they_succeed_against_processes_without_the_rules(tmp_path: Path) -> None:
    """Those that need no parameters which an aggregator refuses; (d) ends the epoch of all."""
    letters = "abfhd"
    rules = [CASES[letter].without.__name__ for letter in letters]
    with taken_over(tmp_path, "--without", *rules) as (federation, attacker):
        found = {letter: tried(letter, federation, attacker) for letter in letters}
        assert min(found.values()) > FOUND


@contextmanager
def taken_over(folder: Path, *options: str) -> Iterator[tuple[SecureFederation, Attacker]]:
    """Let an aggregator serve for a while; it is killed, and the attacker has its place and key."""
    require_mosquitto()
    secure: Settings = {"malicious": 1, "noise": 4, "answers": 5}
    buffered = {"goal": 4, "max_wait_s": 3600.0, "min_contributors": 3}
    task: Settings = {"model": MODEL, "buffered": buffered}
    log = folder / "bytes.log"
    with (
        SecureFederation(folder, NAMES, secure=secure, task=task, broker=OPEN) as federation,
        Tap(federation.broker.port, log) as tap,
    ):
        federation.start(*options)
        federation.until(lambda: tap.wait(lambda: federation.version >= NUM_SUMS), "no versions")
        federation.kill("aggregator")
        attacker = Attacker(ByteLog(log, TOPICS), TOPICS, spoils(federation, INSIDER), tap)
        assert len(attacker.log.answers) >= NUM_SUMS
        yield federation, attacker


def tried(letter: str, federation: SecureFederation, attacker: Attacker) -> float:
    """Attack; return how good the best guess is, by what the devices say that they trained."""
    guesses = CASES[letter].attack(attacker)
    trained = {
        lease_id: delta
        for name in NAMES
        for lease_id, (_, delta) in federation.record(name).trained.items()
    }
    found = best(guesses, attacker, trained)
    sys.stdout.write(f"{letter}: {len(guesses)} guesses, correlation {found:.4f}\n")
    return found


def spoils(federation: SecureFederation, *insiders: str) -> Spoils:
    """Return the aggregator's key, and those of some devices."""
    return Spoils(
        enrolment=read_key(federation.operator / "enrolment.pub"),
        aggregator=read_key(federation.folder / "aggregator.key"),
        insiders={
            name: read_keys(federation.keys_file(name), task=TASK, device=name) for name in insiders
        },
    )
