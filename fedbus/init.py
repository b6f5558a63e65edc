"""``fedbus init``: a federation that is secure without an edit."""

import ipaddress
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from aggregator.config import load_config
from aggregator.secure_config import NONE
from broker_config.accounts import account_names
from broker_config.authority import Authority
from broker_config.files import write_secure_broker
from broker_config.mosquitto import Ports
from fedbus import enrolment
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, ROSTERS
from fedbus.key_files import read_key
from fedbus.toml_text import Values, fill
from fedbus.workplace import (
    DEVICE,
    FED,
    Workplace,
    carry,
    fill_aggregator,
    sample,
    write_services,
)
from protocol.errors import ConfigError
from protocol.secagg.parameters import MIN_COHORT, defaults
from protocol.topics import check_id

DEFAULT_DEVICES: Final = ("device-1", "device-2", "device-3")
LOOPBACK: Final = "127.0.0.1"
#: What the sample waits for before a version, where there are as many devices.
_GOAL: Final = 10


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")] = Path(),
    *,
    device: Annotated[
        list[str] | None,
        typer.Option(help="A device; repeat for more. Default: device-1 to device-3."),
    ] = None,
    task: Annotated[str, typer.Option(help="The task's id.")] = "digits",
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="The broker's name or address as devices reach it; repeat for more, the first is"
            " used. Default: 127.0.0.1, and the broker listens there alone."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Where the broker takes certificates.")
    ] = 8883,
    password_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Where it takes passwords; 0: nowhere.")
    ] = 8884,
    websocket_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The same over websockets; 0: nowhere.")
    ] = 0,
    scheme: Annotated[
        Literal["seedmask", "lightsecagg", "none"],
        typer.Option(help="How updates are masked; none: the aggregator sees them."),
    ] = "seedmask",
) -> None:
    """Make a federation: settings, keys, certificates and a broker, for one task and its devices.

    What it writes is secure as it is: TLS with a certificate for everybody, updates signed and
    masked. It overwrites nothing.
    """
    place, names = Workplace(directory), tuple(device or DEFAULT_DEVICES)
    _check(place, names, task, scheme)
    hosts = list(dict.fromkeys([*(host or []), LOOPBACK, "localhost"]))
    listen = "" if host else LOOPBACK
    ports = Ports(port, password_port, websocket_port)
    with _whole_or_nothing(place):
        directory.mkdir(parents=True, exist_ok=True)
        _write_settings(place, names, task=task, host=hosts[0], port=port, scheme=scheme)
        place.enrolment.mkdir(mode=0o700)
        authority = Authority.create(place.ca, f"fedbus {task}")
        write_secure_broker(place.broker, authority, hosts, ports=ports, listen=listen)
        write_services(place, authority)
        _enrol(place, authority, names, scheme)
    _say(place, names, hosts[0], port)


@contextmanager
def _whole_or_nothing(place: Workplace) -> Iterator[None]:
    """Take away what was written if something fails; all of it is new (`Workplace.check_new`)."""
    try:
        yield
    except (ConfigError, OSError) as error:
        for folder in (place.aggregator, place.broker, place.enrolment):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (place.fed, place.device):
            file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        raise


def _check(place: Workplace, names: tuple[str, ...], task: str, scheme: str) -> None:
    place.check_new()
    check_id(task, "task")
    account_names(names)
    if len(set(names)) != len(names):
        raise ConfigError("a device is named twice")
    if scheme != NONE and len(names) < MIN_COHORT:
        raise ConfigError(
            f"{len(names)} devices: a sum hides nobody among fewer than {MIN_COHORT}; name more"
            " with --device, or take --scheme none"
        )


def _write_settings(
    place: Workplace, names: tuple[str, ...], *, task: str, host: str, port: int, scheme: str
) -> None:
    malicious, _, _ = defaults(max(len(names), MIN_COHORT))
    least = 1 if scheme == NONE else malicious + 2
    fed: Values = {
        "": {"state_dir": "aggregator/state"},
        "task": {"task": task},
        "task.buffered": {
            "goal": max(least, min(_GOAL, len(names))),
            "min_contributors": least,
        },
        "broker": {
            "host": host,
            "port": port,
            "ca_file": "aggregator/ca.crt",
            "certificate_file": "aggregator/tls.crt",
            "key_file": "aggregator/tls.key",
        },
        "secure": {"scheme": scheme, "rosters": "aggregator/rosters"},
        "identity": {"key_file": "aggregator/aggregator.key"},
    }
    device: Values = {
        "": {"task": task, "device": names[0], "state_dir": "state"},
        "data": {"file": "data.npz"},
        "broker": {
            "host": host,
            "port": port,
            "ca_file": "ca.crt",
            "certificate_file": "device.crt",
            "key_file": "device.key",
        },
        "identity": {"keys": "keys.json"},
    }
    place.fed.write_text(fill(sample(FED), fed), encoding="utf-8")
    place.device.write_text(fill(sample(DEVICE), device), encoding="utf-8")


def _enrol(place: Workplace, authority: Authority, names: tuple[str, ...], scheme: str) -> None:
    """Give everybody keys, and the aggregator the public half of those that sign for devices."""
    config = load_config(place.fed)
    if scheme == NONE:
        keys_files = enrolment.enrol_plain(place.enrolment, config.task.task, names)
    else:
        size = config.task.trained().layout.size
        parameters = config.secure.parameters(config.task, len(names), size)
        made = enrolment.enrol(
            place.enrolment, parameters, config.task.task, names, valid_s=config.secure.epoch_s
        )
        keys_files = made.keys_files
    for name in names:
        carry(place, name, authority.issue_client(name), keys_files[name], as_file=False)
    fill_aggregator(place, place.enrolment / AGGREGATOR_KEY, place.enrolment / ROSTERS)
    public = read_key(place.enrolment / ENROLMENT_PUBLIC).hex()
    text = place.fed.read_text(encoding="utf-8")
    place.fed.write_text(fill(text, {"identity": {"enrolment_key": public}}), encoding="utf-8")


def _say(place: Workplace, names: tuple[str, ...], host: str, port: int) -> None:
    typer.echo(f"task and {len(names)} devices, in {place.directory.absolute()}:")
    for path, what in (
        ("broker/", f"to the broker's host ({_where(host, port)})"),
        ("fed.toml, aggregator/", "to the aggregator's host"),
        ("enrolment/carry/<id>/", "each to its device, and its data.npz (x, y) into it"),
        ("enrolment/", "SECRET: stays with you, on none of these machines"),
    ):
        typer.echo(f"  {path:<24}{what}")
    typer.echo("\nto try it all on this machine, each in a terminal of its own:")
    for line in (
        f"fedbus broker up {place.directory}",
        f"cd {place.directory} && fedbus aggregator run --config {FED}",
        f"cd {place.carried(names[0])} && fedbus-device run --config {DEVICE}",
        f"fedbus watch --dir {place.directory}",
    ):
        typer.echo(f"  {line}")


def _where(host: str, port: int) -> str:
    try:
        alone = ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    return f"{host}:{port}" + (": this machine alone; --host says otherwise" if alone else "")
