"""``fedbus enrol token`` and ``redeem``: devices that make their own keys at their first start."""

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from aggregator.config import AggregatorConfig, load_config
from broker_config.accounts import account_names
from broker_config.authority import Authority
from broker_config.files import BrokerFiles
from broker_config.private_files import PUBLIC, create, replace
from device_sdk.redeem import Token, token_text
from fedbus.denials import password_listener
from fedbus.enrolment import DEFAULT_COHORT, newest_roster
from fedbus.key_files import refuse_existing
from fedbus.redeeming import answer_devices
from fedbus.tokens import Desk, entry_of, make, rules_of
from fedbus.toml_text import fill
from fedbus.workplace import CA_CERTIFICATE, Workplace
from protocol.errors import ConfigError
from protocol.joining import NEWCOMER, OPERATOR
from protocol.topics import Topics, check_id
from transport import BrokerSettings
from transport.settings import Tls

DAY_S: Final = 86_400.0

DirOption = Annotated[Path, typer.Option("--dir", help="The folder that `fedbus init` made.")]


def token(
    devices: Annotated[list[str], typer.Argument(metavar="DEVICE...", help="Ids of new devices.")],
    *,
    directory: DirOption = Path(),
    cohort: Annotated[str, typer.Option(help="Who shares masks with whom.")] = DEFAULT_COHORT,
    days: Annotated[float, typer.Option(min=0.01, help="How long tokens are good.")] = 7.0,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65_535, help="Where the broker takes passwords; 0: as its folder says."
        ),
    ] = 0,
) -> None:
    """Make one-time tokens: a file to carry to each device, which then makes its own keys.

    The device runs `fedbus-device redeem`, and `fedbus enrol redeem` answers it here.
    """
    place = Workplace(directory)
    config = load_config(place.fed)
    Desk(place).tidy()
    account_names(devices)
    authority = Authority.open(place.ca)
    for device in devices:
        check_id(f"{NEWCOMER}{device}", "device")
        if authority.issued(device) or device == OPERATOR or device.startswith(NEWCOMER):
            raise ConfigError(f"{device}: enrolled already, or reserved: take another name")
    files = [place.token(device) for device in devices]
    refuse_existing(files)
    at = port or _password_port(place)
    for device, file in zip(devices, files, strict=True):
        made = make(place, _blank(place, config, device, cohort, at), valid_s=days * DAY_S)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create(file, token_text(made).encode())
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        typer.echo(str(file))
        if not place.broker.is_dir():
            typer.echo(f"  a line for the broker's passwords: {entry_of(made)}")
            typer.echo(f"  if it is a mosquitto, lines for its acl:\n\n{rules_of(made)}")
    typer.echo(
        "  SECRET until redeemed: each to its device, where `fedbus-device redeem` reads it;"
    )
    typer.echo("  meanwhile `fedbus enrol redeem --watch` runs here")


def redeem(
    *,
    directory: DirOption = Path(),
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until Ctrl-C, also when no token is left.")
    ] = False,
    deadline: Annotated[
        float, typer.Option(min=1.0, help="Without --watch: seconds to wait for devices.")
    ] = 60.0,
) -> None:
    """Answer devices that redeem tokens. Exit status 1 if some are not redeemed in time."""
    place = Workplace(directory)
    config, desk = load_config(place.fed), Desk(place)
    desk.tidy()
    for problem in desk.damaged:
        typer.echo(problem, err=True)
    if not desk.outstanding and not watch:
        typer.echo("no token is to be redeemed: `fedbus enrol token DEVICE` makes one")
        return
    until = float("inf") if watch else time.monotonic() + deadline
    topics = Topics(config.task.prefix, config.task.task)
    answer_devices(desk, _settings(place, config), topics, until, typer.echo)
    _say_accounts(desk)
    if left := desk.outstanding:
        typer.echo(f"not redeemed: {', '.join(left)}")
        raise typer.Exit(1)


def _say_accounts(desk: Desk) -> None:
    """Say which accounts are there still: who asks again needs one, and the desk closes now."""
    accounts = desk.accounts
    for device, until in accounts.items():
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
        typer.echo(f"{NEWCOMER}{device}: at the broker until {moment}, if its device asks again")
    if accounts:
        typer.echo("  then the next `fedbus devices list` here takes it away")


def _settings(place: Workplace, config: AggregatorConfig) -> BrokerSettings:
    """Return how the operator connects; its certificate is made at the first time."""
    certificate, key = place.service(OPERATOR)
    if not certificate.exists():
        issued = Authority.open(place.ca).issue_client(OPERATOR)
        try:
            certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace(certificate, issued.certificate, PUBLIC)
            replace(key, issued.key)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return BrokerSettings(
        host=config.broker.host,
        port=config.broker.port,
        client_id=f"{config.task.task}-{OPERATOR}",
        username=OPERATOR,
        clean_start=True,
        connect_timeout_s=20.0,
        tls=Tls(ca=place.ca / CA_CERTIFICATE, certificate=certificate, key=key),
    )


def _blank(
    place: Workplace, config: AggregatorConfig, device: str, cohort: str, port: int
) -> Token:
    """Return a token without secrets."""
    masked = config.secure.enabled
    try:
        ca = (place.ca / CA_CERTIFICATE).read_text(encoding="ascii")
        settings = place.device.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return Token(
        task=config.task.task,
        prefix=config.task.prefix,
        device=device,
        host=config.broker.host,
        port=port,
        password="",
        token=b"",
        ca=ca,
        settings=fill(settings, {"": {"device": device}}),
        cohort=cohort if masked else "",
        epoch=newest_roster(place.enrolment, cohort).epoch + 1 if masked else 0,
    )


def _password_port(place: Workplace) -> int:
    files = BrokerFiles(place.broker)
    found = password_listener(files) if files.config.exists() else None
    if found is None:
        raise ConfigError("no listener of the broker takes passwords here: name it by --port")
    return found[0]
