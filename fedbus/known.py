"""Whom an enrolment's folder knows by name: also devices that no aggregator has heard of yet."""

from pathlib import Path
from typing import Final

from broker_config.accounts import SERVICES
from protocol.joining import OPERATOR

#: Where an enrolment keeps its authority.
CA: Final = "ca"
#: Where it keeps keys files that wait to be carried, and who waits for a roster.
DEVICES: Final = "devices"
WAITING: Final = "waiting"
#: Where it keeps one-time tokens.
TOKENS: Final = "tokens"
_NO_DEVICES: Final = {*SERVICES, OPERATOR, "broker"}


def enrolled(enrolment: Path) -> set[str]:
    """Return who has, or had, certificate or keys of an enrolment; empty if there is none."""
    certified = {path.name for path in (enrolment / CA / "issued").glob("*")}
    keys = {path.stem for path in (enrolment / DEVICES).glob("*.json")}
    waiting = {path.stem for path in (enrolment / WAITING).glob("*/*.json")}
    return (certified | keys | waiting) - _NO_DEVICES


def with_token(enrolment: Path) -> set[str]:
    """Return for whom a one-time token was made, redeemed or not."""
    return {path.stem for path in (enrolment / TOKENS).glob("*.json")}
