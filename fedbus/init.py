"""``fedbus init``: a federation that is secure without an edit."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from aggregator.config import load_config
from aggregator.secure_config import NONE
from aggregator.wording import many
from broker_config.accounts import account_names
from broker_config.authority import Authority
from broker_config.files import write_secure_broker
from broker_config.mosquitto import Ports
from fedbus import enrolment
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, ROSTERS
from fedbus.first_settings import First, Wishes, first_settings, signed_text
from fedbus.key_files import read_key
from fedbus.reach import Reach
from fedbus.toml_text import Values, fill, with_lines
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
from protocol.secagg.parameters import MIN_COHORT
from protocol.topics import DEFAULT_PREFIX, check_id

DEFAULT_DEVICES: Final = ("device-1", "device-2", "device-3")


DirArgument = Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(help="A device; repeat for more. Default: device-1 to device-3."),
]
TaskOption = Annotated[
    str, typer.Option(help="The task's id. Default: digits.", show_default=False)
]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        help="The broker's name or address as devices reach it; repeat for more, the first is"
        " used. Default: 127.0.0.1, and the broker listens there alone."
    ),
]
PortOption = Annotated[
    int, typer.Option(min=1, max=65_535, help="Where the broker takes certificates.")
]
PasswordPortOption = Annotated[
    int, typer.Option(min=0, max=65_535, help="Where it takes passwords; 0: nowhere.")
]
WebsocketPortOption = Annotated[
    int, typer.Option(min=0, max=65_535, help="The same over websockets; 0: nowhere.")
]
SchemeOption = Annotated[
    Literal["seedmask", "lightsecagg", "pairwise", "none", ""],
    typer.Option(
        metavar="[seedmask|lightsecagg|pairwise|none]",
        help="How updates are masked; pairwise: in rounds; none: the aggregator sees them."
        " Default: seedmask.",
        show_default=False,
    ),
]
GroupOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=64,
        help="Sum masked updates in groups of so many, which a robust rule compares; needs"
        " three times as many devices, and robust.attackers becomes what such groups can bear."
        " 0: one sum, which one attacker can spoil.",
    ),
]
EpsilonOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Differential privacy: the most that may be learned of one device's data; 8 is"
        " weak, below 1 strong. With --updates. 0: none.",
    ),
]
UpdatesOption = Annotated[
    int, typer.Option(min=0, help="From how many updates of a device in all, before it stops.")
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting of fed.toml, like robust.attackers=0.1; repeat for more.",
    ),
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Begin with the settings of this fed.toml (model, training, ...) instead of the"
        " sample's. Files it names stay where they are.",
    ),
]


def init(
    directory: DirArgument = Path(),
    *,
    device: DeviceOption = None,
    task: TaskOption = "",
    host: HostOption = None,
    port: PortOption = 8883,
    password_port: PasswordPortOption = 8884,
    websocket_port: WebsocketPortOption = 0,
    scheme: SchemeOption = "",
    group: GroupOption = 0,
    epsilon: EpsilonOption = 0.0,
    updates: UpdatesOption = 0,
    setting: SettingOption = None,
    source: SourceOption = None,
) -> None:
    """Make a federation: settings, keys, certificates and a broker, for one task and its devices.

    What it writes is secure as it is: TLS with a certificate for everybody, updates signed and
    masked. It overwrites nothing.

    Model, groups, privacy and buffers are signed for the devices: say them now, by options or
    --from. Later a change needs a new roster, and the aggregator says how.
    """
    place, names = Workplace(directory), tuple(device or DEFAULT_DEVICES)
    wishes = Wishes(
        task=task,
        scheme=scheme,
        source=source,
        settings=setting or (),
        group=group,
        epsilon=epsilon,
        updates=updates,
    )
    first = first_settings(wishes, len(names))
    _check(place, names, first)
    reach = Reach.by(host or (), Ports(port, password_port, websocket_port))
    signed = _make(place, names, first, reach)
    _say(place, names, reach)
    if signed:
        typer.echo(f"\n{signed}")


def _make(place: Workplace, names: tuple[str, ...], first: First, reach: Reach) -> str:
    """Write it all; return what was signed for all devices."""
    with _whole_or_nothing(place):
        _write_settings(place, names[0], first, reach)
        place.enrolment.mkdir(mode=0o700)
        authority = Authority.create(place.ca, f"fedbus {first.task}")
        write_secure_broker(
            place.broker,
            authority,
            reach.hosts,
            ports=reach.ports,
            listen=reach.listen,
            prefix=first.prefix,
        )
        write_services(place, authority)
        return _enrol(place, authority, names)


@contextmanager
def _whole_or_nothing(place: Workplace) -> Iterator[None]:
    """Make the folder, and leave nothing new if something fails.

    All that is written is new (`Workplace.check_new`); the folder and those above it may be.
    """
    folders = [each for each in (place.directory, *place.directory.parents) if not each.exists()]
    try:
        place.directory.mkdir(parents=True, exist_ok=True)
        yield
    except (ConfigError, OSError) as error:
        for folder in (place.aggregator, place.broker, place.enrolment):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (place.fed, place.device):
            file.unlink(missing_ok=True)
        for folder in folders:
            with suppress(OSError):  # somebody has put something there
                folder.rmdir()
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        raise


def _check(place: Workplace, names: tuple[str, ...], first: First) -> None:
    place.check_new()
    check_id(first.task, "task")
    account_names(names)
    if len(set(names)) != len(names):
        raise ConfigError("a device is named twice")
    if first.scheme != NONE and len(names) < MIN_COHORT:
        raise ConfigError(
            f"{many(len(names), 'device')}: a sum hides nobody among fewer than {MIN_COHORT}; name"
            " more with --device, or take --scheme none"
        )


def _write_settings(place: Workplace, name: str, first: First, reach: Reach) -> None:
    fed: Values = {
        "": {"state_dir": "aggregator/state"},
        "broker": {
            "host": reach.host,
            "port": reach.ports.tls,
            "ca_file": "aggregator/ca.crt",
            "certificate_file": "aggregator/tls.crt",
            "key_file": "aggregator/tls.key",
        },
        "secure": {"rosters": "aggregator/rosters"},
        "identity": {"key_file": "aggregator/aggregator.key"},
    }
    device: Values = {
        "": {
            "task": first.task,
            "device": name,
            "state_dir": "state",
            **({} if first.prefix == DEFAULT_PREFIX else {"prefix": first.prefix}),
        },
        "data": {"file": "data.npz"},
        "broker": {
            "host": reach.host,
            "port": reach.ports.tls,
            "ca_file": "ca.crt",
            "certificate_file": "device.crt",
            "key_file": "device.key",
        },
        "identity": {"keys": "keys.json"},
    }
    place.fed.write_text(fill(with_lines(first.text, fed), fed), encoding="utf-8")
    place.device.write_text(fill(sample(DEVICE), device), encoding="utf-8")


def _enrol(place: Workplace, authority: Authority, names: tuple[str, ...]) -> str:
    """Give everybody keys, and the aggregator the public half of those that sign for devices.

    Return what was signed for all devices.
    """
    config, signed = load_config(place.fed), ""
    if not config.secure.enabled:
        keys_files = enrolment.enrol_plain(place.enrolment, config.task.task, names)
    else:
        size = config.task.trained().layout.size
        parameters = config.secure.parameters(config.task, len(names), size)
        made = enrolment.enrol(
            place.enrolment, parameters, config.task.task, names, valid_s=config.secure.epoch_s
        )
        keys_files, signed = made.keys_files, signed_text(parameters)
    for name in names:
        carry(place, name, authority.issue_client(name), keys_files[name], as_file=False)
    fill_aggregator(place, place.enrolment / AGGREGATOR_KEY, place.enrolment / ROSTERS)
    public = read_key(place.enrolment / ENROLMENT_PUBLIC).hex()
    own: Values = {"identity": {"enrolment_key": public}}
    text = place.fed.read_text(encoding="utf-8")
    place.fed.write_text(fill(with_lines(text, own), own), encoding="utf-8")
    return signed


def _say(place: Workplace, names: tuple[str, ...], reach: Reach) -> None:
    typer.echo(f"task and {many(len(names), 'device')}, in {place.directory.absolute()}:")
    for path, what in (
        ("broker/", f"to the broker's host ({reach.text})"),
        ("fed.toml, aggregator/", "to the aggregator's host"),
        ("enrolment/carry/<id>/", "each to its device, and its data.npz (x, y) into it"),
        ("enrolment/", "SECRET: stays with you, on none of these machines"),
    ):
        typer.echo(f"  {path:<24}{what}")
    typer.echo("\nto try it all on this machine, each in a terminal of its own:")
    here, carried = (shlex.quote(str(each)) for each in (place.directory, place.carried(names[0])))
    for line in (
        f"fedbus broker up {here}",
        f"cd {here} && fedbus aggregator run --config {FED}",
        f"cd {carried} && fedbus-device run --config {DEVICE}",
        f"fedbus watch --dir {here}",
    ):
        typer.echo(f"  {line}")
