"""Taking a device's ways in: all that can be done is done, and what is left is told."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aggregator.config import AggregatorConfig
from aggregator.store_errors import StoreError
from broker_config.authority import Authority
from broker_config.files import BrokerFiles
from broker_config.revoke import deny_device, forget_passwords, publish_list, take_back
from fedbus.enrolment import newest_rosters
from fedbus.forget import forget
from fedbus.key_files import parse_key
from fedbus.known import CA
from fedbus.roster_steps import next_roster
from protocol.errors import ConfigError
from protocol.secagg.parameters import MIN_COHORT
from protocol.secagg.roster import Roster

#: What a broker elsewhere is told.
_FOLLOWS: Final = (
    "a broker run by `fedbus broker up` elsewhere follows mon/denied by itself; delete secrets/{0}"
    " in its folder, if it has one"
)


@dataclass(slots=True)
class Outcome:
    """What was done, and what is still to be done; a line each."""

    lines: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)

    def attempt(self, step: Callable[[], Iterable[str]], otherwise: str) -> None:
        """Take a step; where it fails, note what is therefore still so."""
        try:
            self.lines += step()
        except (ConfigError, StoreError) as error:
            self.undone.append(f"{otherwise}: {error}")


def check_folders(enrolment: Path | None, broker: Path | None) -> None:
    """Raise ConfigError unless the folders that an operator named are what they are taken for."""
    if enrolment is not None and not (enrolment / CA / "ca.key").exists():
        raise ConfigError(f"--enrolment {enrolment}: no {CA}/ca.key is there; nothing was done")
    if broker is not None and not BrokerFiles(broker).acl.exists():
        raise ConfigError(f"--broker {broker}: no broker's acl is there; nothing was done")


def shut_out(outcome: Outcome, device: str, enrolment: Path | None, broker: Path | None) -> None:
    """Take a device's certificates, passwords, rights and keys where their folders are here."""
    if enrolment is not None:
        outcome.attempt(
            lambda: _certificates(enrolment, device, broker), "its certificates are valid still"
        )
    if broker is not None:
        outcome.attempt(
            lambda: _deleted(forget_passwords(broker, device)), "its password lies there still"
        )
        outcome.attempt(lambda: _denied(broker, device), "the broker was not told")
    if enrolment is not None:
        outcome.attempt(lambda: _deleted(forget(enrolment, device)), "its keys lie there still")
    if broker is None:
        outcome.lines.append(_FOLLOWS.format(device))
        if enrolment is not None:
            crl = enrolment / CA / "crl.pem"
            outcome.lines.append(f"{crl}: to the broker's folder; then kill -HUP the broker")
    if enrolment is None:
        outcome.lines.append(
            "its certificate is valid, and its keys lie there still, until `fedbus devices revoke"
            f" {device} --enrolment DIR` where the enrolment is"
        )


def roster_of(config: AggregatorConfig, device: str) -> Roster | None:
    """Return the newest roster that has a device; None if there is none."""
    if not (config.secure.enabled and config.secure.rosters and config.identity.enrolment_key):
        return None
    key = parse_key(config.identity.enrolment_key)
    rosters = newest_rosters(Path(config.secure.rosters), key).values()
    return next((each for each in rosters if each.index(device) is not None), None)


def next_steps(
    config: Path, checked: AggregatorConfig, device: str, enrolment: Path | None
) -> Iterator[str]:
    """Yield how a device's cohort goes on without it; nothing if it is in none."""
    roster = roster_of(checked, device)
    if roster is None:
        return
    yield (
        f"cohort {roster.cohort!r} goes on without it from the next roster, and may wait for"
        " its answers until then:"
    )
    num_left = len(roster.members) - 1
    num_after = max(num_left, MIN_COHORT)
    is_fewer = num_after < roster.parameters.max_contributors
    for step in next_roster(
        str(config),
        str(enrolment or "DIR"),
        cohort=roster.cohort,
        remove=[device],
        to_enrol=num_after - num_left,
        goal_at_most=num_after * is_fewer,
    ):
        yield f"  {step}"


def _certificates(enrolment: Path, device: str, broker: Path | None) -> Iterable[str]:
    authority = Authority.open(enrolment / CA)
    taken_back = take_back(authority, device)
    if broker is not None:
        publish_list(authority, broker)
    return [f"certificates taken back: {taken_back}"]


def _denied(broker: Path, device: str) -> Iterable[str]:
    if deny_device(broker, device):
        return []
    return [f"no mosquitto runs in {broker} here: it knows from its next start on"]


def _deleted(paths: Iterable[Path]) -> Iterable[str]:
    return [f"deleted {path}" for path in paths]
