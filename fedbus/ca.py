"""``fedbus ca``: the operator's X.509 authority, by which brokers know devices and services."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from aggregator.wording import many
from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.authority import Authority, days_left, read_certificate
from broker_config.files import BrokerFiles
from broker_config.private_files import PUBLIC, replace
from broker_config.revoke import reload_broker
from fedbus.workplace import (
    CA_CERTIFICATE,
    DEVICE_CERTIFICATE,
    DEVICE_KEY,
    Workplace,
    write_services,
)
from protocol.errors import ConfigError

#: Below so many days a certificate is renewed, and `show` warns.
SOON_DAYS: Final = 60.0
BROKER: Final = "broker"

app = typer.Typer(help="Certificates for TLS: make, show and renew them.", no_args_is_help=True)

DirectoryOption = Annotated[Path, typer.Option("--dir", help="The folder that `fedbus init` made.")]


@app.command()
def init(
    *,
    directory: DirectoryOption = Path(),
    name: Annotated[str, typer.Option(help="What the authority calls itself.")] = "fedbus",
) -> None:
    """Make an authority, and certificates for aggregator and monitor.

    `fedbus init` does this, too: this is for who has settings and a broker already.
    """
    place = Workplace(directory)
    if not directory.is_dir():
        raise ConfigError(f"--dir {directory}: there is no such folder; nothing was made")
    try:
        place.enrolment.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = Authority.create(place.ca, name)
        write_services(place, authority)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    typer.echo(f"{place.ca / 'ca.key'}\n  SECRET: stays here; who has it can be any device")
    typer.echo(f"{place.ca / CA_CERTIFICATE}\n  to everybody: sha256 {_fingerprint(authority)}")


@app.command()
def show(*, directory: DirectoryOption = Path()) -> None:
    """Say whose certificates there are, and how long they last. Exit status 1 if one ends soon."""
    authority = Authority.open(Workplace(directory).ca)
    own = days_left(authority.certificate)
    typer.echo(f"authority, {many(int(own), 'day')} left, sha256 {_fingerprint(authority)}")
    revoked, width = authority.revoked(), max(map(len, ["-", *authority.names()]))
    ends_soon = own < SOON_DAYS
    for name in authority.names():
        valid = [each for each in authority.issued(name) if each.serial_number not in revoked]
        left = max(map(days_left, valid), default=None)
        ends_soon = ends_soon or (left is not None and left < SOON_DAYS)
        typer.echo(f"  {name:<{width}}  {_state(left)}")
    raise typer.Exit(int(ends_soon))


@app.command()
def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="A device, or broker, aggregator, monitor; without: these, if theirs end soon.",
            show_default=False,
        ),
    ] = None,
    *,
    directory: DirectoryOption = Path(),
    lost: Annotated[
        bool,
        typer.Option("--lost", help="The old keys are in wrong hands: revoke their certificates."),
    ] = False,
) -> None:
    """Give new keys and certificates. The old ones stay valid until they end; --lost ends them."""
    place = Workplace(directory)
    authority = Authority.open(place.ca)
    chosen = names or list(_due(authority))
    for name in chosen:
        if not authority.issued(name):
            raise ConfigError(f"{name}: never had a certificate; `fedbus enrol {name}` gives one")
        if not lost and _is_revoked(authority, name):
            raise ConfigError(
                f"{name} is revoked: enrol the device under another name; or --lost, if it was"
                " `ca renew --lost` that took its certificates back and got no further"
            )
    if not chosen:
        typer.echo(f"nothing ends within {SOON_DAYS:.0f} days")
    for name in chosen:
        num_revoked = authority.revoke(name) if lost else 0
        try:
            typer.echo(_renew(place, authority, name))
            if num_revoked:
                typer.echo(_publish_list(place, authority, num_revoked))
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None


def _is_revoked(authority: Authority, name: str) -> bool:
    revoked = authority.revoked()
    return all(each.serial_number in revoked for each in authority.issued(name))


def _publish_list(place: Workplace, authority: Authority, num_revoked: int) -> str:
    """Have the broker know what was revoked; return what to do about it."""
    told = f"{num_revoked} old certificates revoked"
    if not place.broker.is_dir():
        return f"{told}: {place.ca / 'crl.pem'} to the broker's host; then kill -HUP the broker"
    replace(BrokerFiles(place.broker).revocations, authority.list_pem, PUBLIC)
    return told if reload_broker(place.broker) else f"{told}; the broker does not run here"


def _due(authority: Authority) -> Iterator[str]:
    for name in (BROKER, AGGREGATOR, MONITOR):
        issued = authority.issued(name)
        if issued and days_left(issued[-1]) < SOON_DAYS:
            yield name


def _renew(place: Workplace, authority: Authority, name: str) -> str:
    """Renew one; return what to do with it."""
    if name == BROKER:
        return _renew_broker(place, authority)
    certificate, key = _held(place, name)
    certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    issued = authority.issue_client(name)
    replace(key, issued.key)
    replace(certificate, issued.certificate, PUBLIC)
    if name in {AGGREGATOR, MONITOR}:
        return f"{certificate}, {key.name}: start the {name} again"
    shutil.copy(place.ca / CA_CERTIFICATE, certificate.parent)
    return f"{certificate}, {key.name}: to the device; then start it again, and delete them here"


def _held(place: Workplace, name: str) -> tuple[Path, Path]:
    """Where a client's certificate and key are laid down."""
    if name == AGGREGATOR and place.aggregator.is_dir():
        return place.aggregator / "tls.crt", place.aggregator / "tls.key"
    if name in {AGGREGATOR, MONITOR}:
        return place.service(name)
    return place.carried(name) / DEVICE_CERTIFICATE, place.carried(name) / DEVICE_KEY


def _renew_broker(place: Workplace, authority: Authority) -> str:
    """Give the broker a certificate for the hosts of its last one."""
    files = BrokerFiles(place.broker)
    issued = authority.issue_server(BROKER, _hosts(read_certificate(files.certificate)))
    replace(files.key, issued.key)
    replace(files.certificate, issued.certificate, PUBLIC)
    if reload_broker(place.broker):
        return f"{files.certificate}, {files.key.name}: the broker has been told"
    return f"{files.certificate}, {files.key.name}: to the broker's host; then kill -HUP the broker"


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _fingerprint(authority: Authority) -> str:
    return authority.certificate.fingerprint(SHA256()).hex()


def _state(left: float | None) -> str:
    if left is None:
        return "revoked"
    if left < 0:
        return "EXPIRED: `fedbus ca renew`"
    return f"{many(int(left), 'day')} left{': `fedbus ca renew`' if left < SOON_DAYS else ''}"
