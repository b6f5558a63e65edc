"""``fedbus enrol DEVICE...``: one folder, or one file, to carry to each new device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from aggregator.config import AggregatorConfig, load_config
from aggregator.wording import many
from broker_config.accounts import account_names
from broker_config.authority import Authority
from fedbus import enrolment
from fedbus.enrol_tokens import token
from fedbus.enrolment import DEFAULT_COHORT, ENROLMENT_PUBLIC, ROSTERS, newest_rosters
from fedbus.key_files import read_key, refuse_existing
from fedbus.roster_steps import next_roster
from fedbus.tokens import Desk
from fedbus.workplace import Workplace, carry, copy_rosters
from protocol.errors import ConfigError
from protocol.joining import NEWCOMER, OPERATOR
from protocol.secagg.parameters import MIN_COHORT


def enrol_devices(
    names: Annotated[list[str], typer.Argument(metavar="DEVICE...", help="Ids of new devices.")],
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="The folder that `fedbus init` made.")
    ] = Path(),
    cohort: Annotated[
        str, typer.Option(help="Who shares masks with whom; a new name makes a new one.")
    ] = DEFAULT_COHORT,
    as_file: Annotated[
        bool, typer.Option("--file", help="One .tar for each device instead of a folder.")
    ] = False,
    by_token: Annotated[
        bool,
        typer.Option(
            "--token",
            help="A one-time token instead: the device makes its own keys (`fedbus enrol token`).",
        ),
    ] = False,
) -> None:
    """Give new devices certificate, keys and settings: a folder to carry to each.

    Where updates are masked, devices wait for the next epoch of their cohort, which `fedbus enrol
    next` begins; three or more with a new --cohort begin at once.
    """
    if by_token:
        token(names, directory=directory, cohort=cohort)
        return
    place = Workplace(directory)
    config = load_config(place.fed)
    Desk(place).tidy()
    authority = Authority.open(place.ca)
    _check_new(authority, names)
    refuse_existing(place.carried(name) for name in names)
    keys_files, note = _make_keys(place, config, names, cohort)
    for name in names:
        issued = authority.issue_client(name)
        typer.echo(str(carry(place, name, issued, keys_files[name], as_file=as_file)))
    copy_rosters(place, place.enrolment / ROSTERS)
    typer.echo("  SECRET: each to its device, with its data.npz beside; then delete it here")
    typer.echo(note)


def _check_new(authority: Authority, names: Sequence[str]) -> None:
    """Refuse names that cannot be, and those of devices that were revoked, too."""
    account_names(names)
    if len(set(names)) != len(names):
        raise ConfigError("a device is named twice")
    for name in names:
        if name == OPERATOR or name.startswith(NEWCOMER):
            raise ConfigError(f"{name}: reserved for redeeming tokens; take another name")
        if authority.issued(name):
            raise ConfigError(
                f"{name} is or was enrolled: `fedbus ca renew {name}` gives it another"
                " certificate; for another device take another name"
            )


def _make_keys(
    place: Workplace, config: AggregatorConfig, names: Sequence[str], cohort: str
) -> tuple[Mapping[str, Path], str]:
    """Return each device's keys file, and what is to be done next."""
    task = config.task.task
    if not config.secure.enabled:
        return enrolment.enrol_plain(place.enrolment, task, names), "they may take part at once"
    known = newest_rosters(place.enrolment / ROSTERS, read_key(place.enrolment / ENROLMENT_PUBLIC))
    if cohort in known:
        made = enrolment.enrol_waiting(place.enrolment, names, cohort=cohort)
        steps = next_roster(str(place.fed), str(place.enrolment), cohort=cohort)
        told = f"they wait for epoch {known[cohort].epoch + 1} of cohort {cohort!r}:"
        return made, "\n  ".join([told, *steps])
    if len(names) < MIN_COHORT:
        raise ConfigError(
            f"cohort {cohort!r} would have {many(len(names), 'device')}: a sum hides nobody among"
            f" fewer than {MIN_COHORT}; there are {', '.join(sorted(known)) or 'no others'}"
        )
    parameters = config.secure.parameters(
        config.task, len(names), config.task.trained().layout.size
    )
    enrolled = enrolment.enrol(
        place.enrolment, parameters, task, names, cohort=cohort, valid_s=config.secure.epoch_s
    )
    return enrolled.keys_files, f"cohort {cohort!r} begins with epoch 1"
