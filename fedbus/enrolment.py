"""Enrolment: who shares masks with whom, and the files that each party gets of it.

A folder that belongs on no machine of the federation::

    enrolment.key       secret: signs rosters
    enrolment.pub       what all others check rosters with
    aggregator.key      secret: for the aggregator's host
    aggregator.pub
    rosters/<cohort>-<epoch>.roster     for the aggregator's host
    devices/<id>.json   secret: each for its device
    waiting/<cohort>/   who has keys for the next epoch already
    certificates/<id>   the newest certificate of a device's identity
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nacl.utils

from broker_config.accounts import account_names
from device_sdk.identity import Keys, keys_text
from fedbus.announcements import Announcement
from fedbus.key_files import (
    PUBLIC,
    SECRET,
    create,
    create_key,
    read_key,
    read_secret,
    refuse_existing,
    replace_file,
)
from fedbus.known import DEVICES, WAITING
from fedbus.waiting import lay_down, take_up, waiting_in
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import (
    Certificate,
    certify,
    identity_public,
    open_certificate,
)
from protocol.messages import KEY_BYTES
from protocol.secagg import keys
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster, RosterMember, check_roster, open_roster
from protocol.topics import check_id

ENROLMENT_KEY: Final = "enrolment.key"
ENROLMENT_PUBLIC: Final = "enrolment.pub"
AGGREGATOR_KEY: Final = "aggregator.key"
AGGREGATOR_PUBLIC: Final = "aggregator.pub"
ROSTERS: Final = "rosters"
CERTIFICATES: Final = "certificates"
DEFAULT_COHORT: Final = "all"
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A new roster, and where everything about it lies; ``keys_files`` has new devices only."""

    directory: Path
    roster: Roster
    roster_file: Path
    keys_files: Mapping[str, Path]
    enrolment_key: bytes

    @property
    def aggregator_file(self) -> Path:
        """The aggregator's own key."""
        return self.directory / AGGREGATOR_KEY


def enrol(
    directory: Path,
    parameters: Parameters,
    task: str,
    devices: Sequence[str],
    *,
    cohort: str = DEFAULT_COHORT,
    epoch: int = 1,
    valid_s: int = DAY_S,
) -> Enrolled:
    """Make the first roster of a cohort, and a keys file for each device.

    A folder that has an enrolment key keeps it: this is then a further cohort of its task.
    ``valid_s`` is how long an epoch lasts. Raises ConfigError, before anything is written, for
    settings that cannot be and for files that would be overwritten.
    """
    known = (directory / ENROLMENT_KEY).exists()
    operator = _Operator.known(directory) if known else _Operator.fresh(directory)
    operator.check_new(task, devices, cohort)
    fresh = {device: _Fresh.drawn(task, device, epoch) for device in devices}
    roster = Roster(
        task=task,
        cohort=cohort,
        epoch=epoch,
        valid_s=valid_s,
        parameters=parameters,
        members=_sorted(new.member for new in fresh.values()),
        aggregator=operator.aggregator,
    )
    return operator.write(roster, fresh)


def enrol_plain(directory: Path, task: str, devices: Sequence[str]) -> Mapping[str, Path]:
    """Make a keys file for each device of a task without masks; return where they are.

    A folder that has an enrolment key keeps it. Raises ConfigError as `enrol`.
    """
    known = (directory / ENROLMENT_KEY).exists()
    operator = _Operator.known(directory) if known else _Operator.fresh(directory)
    operator.check_new(task, devices)
    return operator.write_keys(
        {device: operator.keys(task, device, nacl.utils.random(KEY_BYTES)) for device in devices}
    )


def enrol_waiting(
    directory: Path, devices: Sequence[str], *, cohort: str = DEFAULT_COHORT
) -> Mapping[str, Path]:
    """Make keys files for a cohort's next epoch; `enrol_next` then adds the devices by itself.

    Raises ConfigError as `enrol`.
    """
    before = newest_roster(directory, cohort)
    operator = _Operator.known(directory)
    operator.check_new(before.task, devices)
    epoch = before.epoch + 1
    fresh = {device: _Fresh.drawn(before.task, device, epoch) for device in devices}
    try:
        lay_down(directory / WAITING / cohort, (new.member for new in fresh.values()))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return operator.write_keys(
        {
            device: operator.keys(
                before.task, device, new.identity, cohort=cohort, epochs={epoch: new.epoch_secret}
            )
            for device, new in fresh.items()
        }
    )


def issue(directory: Path, task: str, device: str, identity: bytes) -> bytes:
    """Certify the public key that a device made itself; return the certificate, which is kept.

    It takes the place of any before it. Raises ConfigError.
    """
    check_id(device, "device")
    operator = _Operator.known(directory)
    certificate = operator.certificate(task, device, identity)
    try:
        (directory / CERTIFICATES).mkdir(mode=0o700, exist_ok=True)
        replace_file(directory / CERTIFICATES / device, certificate)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return certificate


def enrol_next(
    directory: Path,
    parameters: Callable[[int], Parameters],
    announced: Mapping[str, Announcement],
    *,
    cohort: str = DEFAULT_COHORT,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    valid_s: int = DAY_S,
) -> Enrolled:
    """Make the next epoch's roster of a cohort; ``parameters`` gives those of so many devices.

    Every device that stays must have announced a key; who waits (`enrol_waiting`) is added, named
    in ``add`` or not. Raises ConfigError that names the device.
    """
    before = newest_roster(directory, cohort)
    operator = _Operator.known(directory)
    queue = directory / WAITING / cohort
    waiting = [member for member in waiting_in(queue) if member.device not in remove]
    _check_removed(before, [name for name in remove if not (queue / f"{name}.json").exists()])
    have_keys = {member.device for member in waiting}
    new = [device for device in add if device not in have_keys]
    operator.check_new(before.task, new)
    fresh = {device: _Fresh.drawn(before.task, device, before.epoch + 1) for device in new}
    staying = [
        _renewed(before, member, announced.get(member.device))
        for member in before.members
        if member.device not in remove
    ]
    members = _sorted([*staying, *waiting, *(new.member for new in fresh.values())])
    roster = Roster(
        task=before.task,
        cohort=cohort,
        epoch=before.epoch + 1,
        valid_s=valid_s,
        parameters=parameters(len(members)),
        members=members,
        aggregator=before.aggregator,
    )
    made = operator.write(roster, fresh)
    take_up(queue)
    return made


def newest_roster(directory: Path, cohort: str = DEFAULT_COHORT) -> Roster:
    """Return the newest roster of a cohort in an enrolment's folder. Raises ConfigError."""
    rosters = newest_rosters(directory / ROSTERS, read_key(directory / ENROLMENT_PUBLIC))
    if cohort not in rosters:
        raise ConfigError(f"{directory / ROSTERS}: no cohort {cohort!r}; it has {sorted(rosters)}")
    return rosters[cohort]


def newest_rosters(folder: Path, enrolment_key: bytes) -> dict[str, Roster]:
    """Return the newest roster of each cohort, checked. Raises ConfigError that names a file."""
    newest: dict[str, Roster] = {}
    for path in sorted(folder.glob("*.roster")):
        roster = read_roster(path, enrolment_key)
        present = newest.get(roster.cohort)
        if present is None or present.epoch < roster.epoch:
            newest[roster.cohort] = roster
    return newest


def read_roster(path: Path, enrolment_key: bytes) -> Roster:
    """Read and check one roster. Raises ConfigError that names the file."""
    try:
        return open_roster(unpack(path.read_bytes(), SignedRoster), enrolment_key)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except RemoteProtocolError as error:
        raise ConfigError(f"{path}: {error.detail}") from None


@dataclass(frozen=True, slots=True, repr=False)
class _Fresh:
    """A device that gets its first keys."""

    identity: bytes
    epoch_secret: bytes
    member: RosterMember

    @classmethod
    def drawn(cls, task: str, device: str, epoch: int) -> "_Fresh":
        identity, secret = nacl.utils.random(KEY_BYTES), nacl.utils.random(KEY_BYTES)
        public = keys.epoch_public(secret)
        endorsement = keys.sign(identity, keys.EPOCH_KEY, keys.endorsed(task, epoch, public))
        member = RosterMember(device, keys.identity_public(identity), public, endorsement)
        return cls(identity, secret, member)


@dataclass(frozen=True, slots=True, repr=False)
class _Operator:
    """An enrolment's folder and its secret key; a folder without gets ``aggregator_secret`` too."""

    directory: Path
    secret: bytes
    aggregator: bytes
    aggregator_secret: bytes | None = None

    @classmethod
    def known(cls, directory: Path) -> "_Operator":
        secret = read_secret(directory / ENROLMENT_KEY)
        return cls(directory, secret, read_key(directory / AGGREGATOR_PUBLIC))

    @classmethod
    def fresh(cls, directory: Path) -> "_Operator":
        own = (AGGREGATOR_KEY, AGGREGATOR_PUBLIC, ENROLMENT_PUBLIC, ENROLMENT_KEY)
        refuse_existing(directory / name for name in own)
        secret, aggregator = nacl.utils.random(KEY_BYTES), nacl.utils.random(KEY_BYTES)
        return cls(directory, secret, keys.identity_public(aggregator), aggregator)

    @property
    def public(self) -> bytes:
        return keys.identity_public(self.secret)

    def check_new(self, task: str, devices: Sequence[str], cohort: str | None = None) -> None:
        """Refuse ids that cannot be, or are taken; another task; a cohort that was to be new."""
        if len(set(devices)) != len(devices):
            raise ConfigError("a device is named twice")
        account_names(devices)
        for roster in newest_rosters(self.directory / ROSTERS, self.public).values():
            if roster.task != task:
                raise ConfigError(f"{self.directory} is of task {roster.task!r}: one folder a task")
            if roster.cohort == cohort:
                raise ConfigError(
                    f"cohort {cohort!r} has a roster of epoch {roster.epoch}, and there must never"
                    " be two of one epoch: `fedbus enrol next` makes the next epoch's"
                )
            for device in devices:
                if roster.index(device) is not None:
                    raise ConfigError(f"{device} is in cohort {roster.cohort!r} already")

    def write(self, roster: Roster, fresh: Mapping[str, _Fresh]) -> Enrolled:
        """Write all that is new; the roster last, for without it nothing has happened."""
        check_roster(roster)
        roster_file = self.directory / ROSTERS / f"{roster.cohort}-{roster.epoch}.roster"
        refuse_existing([roster_file])
        try:
            for folder in (self.directory, roster_file.parent):  # parents would be open to all
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            keys_files = self.write_keys(
                {device: self._masked_keys(roster, device, new) for device, new in fresh.items()}
            )
            create(roster_file, pack(roster.signed(self.secret)), PUBLIC)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        return Enrolled(self.directory, roster, roster_file, keys_files, self.public)

    def write_keys(self, made: Mapping[str, Keys]) -> Mapping[str, Path]:
        """Write the operator's own keys, if they are new, and devices' keys files."""
        paths = {device: self.directory / DEVICES / f"{device}.json" for device in made}
        refuse_existing(paths.values())
        try:
            for name in ("", DEVICES, CERTIFICATES):
                (self.directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write_own()
            for device, keys_ in made.items():
                replace_file(self.directory / CERTIFICATES / device, keys_.certificate)
                create(paths[device], keys_text(keys_).encode(), SECRET)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        return paths

    def _write_own(self) -> None:
        if self.aggregator_secret is None:
            return
        create_key(self.directory / AGGREGATOR_KEY, self.aggregator_secret, SECRET)
        create_key(self.directory / AGGREGATOR_PUBLIC, self.aggregator, PUBLIC)
        create_key(self.directory / ENROLMENT_PUBLIC, self.public, PUBLIC)
        create_key(self.directory / ENROLMENT_KEY, self.secret, SECRET)

    def _masked_keys(self, roster: Roster, device: str, new: _Fresh) -> Keys:
        epochs = {roster.epoch: new.epoch_secret}
        return self.keys(roster.task, device, new.identity, cohort=roster.cohort, epochs=epochs)

    def keys(
        self,
        task: str,
        device: str,
        identity: bytes,
        *,
        cohort: str = "",
        epochs: Mapping[int, bytes] | None = None,
    ) -> Keys:
        """Return what a device's keys file holds, its identity certified."""
        return Keys(
            task=task,
            device=device,
            cohort=cohort,
            identity=identity,
            epochs=epochs or {},
            enrolment=self.public,
            aggregator=self.aggregator,
            certificate=self.certificate(task, device, identity_public(identity)),
        )

    def certificate(self, task: str, device: str, identity: bytes) -> bytes:
        """Return a certificate that takes the place of the device's last one."""
        serial = self._last_serial(device) + 1
        return certify(Certificate(task, device, identity, serial), self.secret)

    def _last_serial(self, device: str) -> int:
        path = self.directory / CERTIFICATES / device
        if not path.exists():
            return 0
        try:
            return open_certificate(path.read_bytes(), self.public).serial
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except RemoteProtocolError as error:
            raise ConfigError(f"{path}: {error.detail}") from None


def _sorted(members: Iterable[RosterMember]) -> tuple[RosterMember, ...]:
    return tuple(sorted(members, key=lambda member: member.device))


def _check_removed(before: Roster, remove: Sequence[str]) -> None:
    for device in remove:
        if before.index(device) is None:
            raise ConfigError(f"{device} cannot be removed: it is not in epoch {before.epoch}")


def _renewed(before: Roster, member: RosterMember, given: Announcement | None) -> RosterMember:
    """Return a member with the epoch key that it announced, or raise ConfigError."""
    name, epoch = member.device, before.epoch + 1
    if given is None or given.epoch < epoch:
        raise ConfigError(
            f"{name} has announced no key of epoch {epoch}: wait until it has been online, or"
            " remove it"
        )
    if given.epoch > epoch:
        raise ConfigError(f"{name} has announced epoch {given.epoch}, and {epoch} is the next")
    text = keys.endorsed(before.task, epoch, given.key)
    try:
        keys.check_signature(member.identity, keys.EPOCH_KEY, text, given.endorsement)
        keys.check_epoch_key(given.key)
    except RemoteProtocolError:
        raise ConfigError(f"{name}: the key announced in its name is not its own") from None
    return RosterMember(name, member.identity, given.key, given.endorsement)
