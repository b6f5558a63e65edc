"""``fedbus doctor``: examine a live broker from both sides."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import nacl.utils
import typer

from aggregator.config import load_config
from broker_config.accounts import AGGREGATOR
from broker_config.checks.examination import examine
from broker_config.checks.findings import Finding, failed
from broker_config.checks.visitors import Side
from device_sdk.config import load_config as load_device_config
from fedbus.workplace import DEVICE, Workplace
from protocol.errors import ConfigError
from protocol.topics import Topics
from transport import Will
from transport.config import BrokerConfig

_WINDOW: Final = 1_000
_QUEUE: Final = 1_000


def doctor(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder that `fedbus init` made.")
    ] = Path(),
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The aggregator's settings; without it, DIR's fed.toml."
        ),
    ] = None,
    device: Annotated[
        Path | None,
        typer.Option(
            "--device",
            help="A device's settings; without it, those of the first device enrolled in DIR.",
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="Where to publish probes, if the broker's rules name one task: stop it first.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check a live broker from the aggregator's side and from a device's; say what to fix.

    Clock, TLS and certificates, accounts, access rules by loop-back, packet size, retained
    messages, last will, queues of those who are away, shared subscriptions. Probes have a task of
    their own, so that a running one is not disturbed. Status 1 if a check failed.
    """
    place = Workplace(directory)
    theirs, its = config or place.fed, device or _first_device(place)
    federation = load_config(theirs)
    ours = federation.broker
    topics = Topics(federation.task.prefix, task or f"doctor-{nacl.utils.random(4).hex()}")
    aggregator = _side("aggregator", AGGREGATOR, ours)
    member = None if its is None else _device(its, ours, topics)
    findings = examine(topics, aggregator, member)
    where = f"{ours.host}:{ours.port}"
    found = _tell_json(where, findings) if as_json else _tell(where, findings)
    raise typer.Exit(int(failed(found)))


def _first_device(place: Workplace) -> Path | None:
    return min((place.enrolment / "carry").glob(f"*/{DEVICE}"), default=None)


def _device(path: Path, ours: BrokerConfig, topics: Topics) -> Side:
    """Raises ConfigError unless the device's settings are for the same broker and prefix."""
    member = load_device_config(path)
    its = member.broker
    if (ours.host, ours.port) != (its.host, its.port):
        raise ConfigError(
            f"the aggregator's broker is {ours.host}:{ours.port}, the device's {its.host}:"
            f"{its.port}: both settings must name one broker"
        )
    if member.prefix != topics.prefix:
        raise ConfigError(
            f"prefix: {topics.prefix!r} for the aggregator, {member.prefix!r} for the device; they "
            "must be the same"
        )
    return _side("device", member.device, its)


def _side(name: str, account: str, broker: BrokerConfig) -> Side:
    settings = broker.settings(
        "fedbus-doctor", username=account, will=Will("doctor", b""), window=_WINDOW, queue=_QUEUE
    )
    return Side(name, account, settings)


def _tell(where: str, findings: Iterator[Finding]) -> list[Finding]:
    found = []
    typer.echo(f"examining the broker at {where}")
    for finding in findings:
        found.append(finding)
        typer.echo(f"{finding.verdict.value:<5} {finding.check:<22} {finding.found}")
        if finding.fix:
            typer.echo(f"{'':<28} fix: {finding.fix}")
    num_failed = sum(failed([finding]) for finding in found)
    typer.echo(f"{len(found)} checks, {num_failed} failed")
    return found


def _tell_json(where: str, findings: Iterable[Finding]) -> list[Finding]:
    found = list(findings)
    checks = [
        {"check": each.check, "verdict": each.verdict.value, "found": each.found, "fix": each.fix}
        for each in found
    ]
    sys.stdout.write(json.dumps({"broker": where, "healthy": not failed(found), "checks": checks}))
    sys.stdout.write("\n")
    return found
