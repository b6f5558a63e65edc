"""``fedbus doctor``: examine a live broker from both sides."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import nacl.utils
import typer

from aggregator.config import AggregatorConfig, load_config
from broker_config.accounts import AGGREGATOR
from broker_config.checks.examination import examine
from broker_config.checks.findings import Finding, failed
from broker_config.checks.visitors import Side
from device_sdk.config import DeviceConfig
from device_sdk.config import load_config as load_device_config
from protocol.errors import ConfigError
from protocol.topics import Topics
from transport import Will
from transport.config import BrokerConfig

_WINDOW = 1_000
_QUEUE = 1_000


def doctor(
    *,
    config: Annotated[
        Path, typer.Option("--config", help="The aggregator's configuration.")
    ] = Path("fed.toml"),
    device: Annotated[
        Path | None,
        typer.Option("--device", help="A device's configuration; without it, half is checked."),
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
    federation = load_config(config)
    member = None if device is None else load_device_config(device)
    topics = Topics(federation.task.prefix, task or f"doctor-{nacl.utils.random(4).hex()}")
    findings = examine(topics, *_sides(federation, member))
    where = f"{federation.broker.host}:{federation.broker.port}"
    found = _tell_json(where, findings) if as_json else _tell(where, findings)
    raise typer.Exit(int(failed(found)))


def _sides(federation: AggregatorConfig, member: DeviceConfig | None) -> tuple[Side, Side | None]:
    aggregator = _side("aggregator", AGGREGATOR, federation.broker)
    if member is None:
        return aggregator, None
    ours, its = federation.broker, member.broker
    if (ours.host, ours.port) != (its.host, its.port):
        raise ConfigError(
            f"the aggregator's broker is {ours.host}:{ours.port}, the device's {its.host}:"
            f"{its.port}: both configurations must name one broker"
        )
    if member.prefix != federation.task.prefix:
        raise ConfigError(
            f"prefix: {federation.task.prefix!r} for the aggregator, {member.prefix!r} for the "
            "device; they must be the same"
        )
    return aggregator, _side("device", member.device, its)


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
        typer.echo(f"{finding.verdict.value:<5} {finding.check:<19} {finding.found}")
        if finding.fix:
            typer.echo(f"{'':<25} fix: {finding.fix}")
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
