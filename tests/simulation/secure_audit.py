"""What must hold in every secure history, at each commit and at the end (DESIGN section 4).

The auditor sees every commit, every write of every device, every publish, and the plaintexts.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from aggregator.records import DocumentRecord, JournalRecord, Record, RefusalRecord, VersionRecord
from aggregator.recoveries import REQUEST
from device_sdk.pending import PENDING, Pending, unpack_pending
from protocol import refusals
from protocol.codec import unpack
from protocol.secagg import scheme
from protocol.secagg.field import from_bytes
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.requests import request_hash
from protocol.secagg.roster import Roster
from protocol.secagg.shares import RecoveryError, columns, recover
from protocol.vectors.packing import DENSE, CodecSpec
from simulator import World
from tests.simulation.secure_holders import Holders
from tests.simulation.secure_plaintext import ROUNDED, Plain, Plaintexts
from tests.simulation.secure_training import Trainings, WatchedStorage
from tests.simulation.training import SIZE, Float64

_SUPPORT = "support/"


class SecureAudit:
    """Watches a world. Raises AssertionError as soon as something is wrong."""

    def __init__(self, world: World, codec: CodecSpec, trainings: Trainings) -> None:
        self.world = world
        self.version = -1
        self.counted: dict[bytes, Plain] = {}
        self.refused: set[bytes] = set()
        self.journalled: dict[bytes, bytes] = {}
        self.outcomes: dict[str, int] = {}
        self.storages: dict[str, WatchedStorage] = {}
        self.plaintexts = Plaintexts(world.topics.task, codec, trainings)
        self.holders = Holders(world.topics, self.storages)
        self._model = np.zeros(SIZE)
        self._params: Float64 | None = None
        self._has_decoded = False
        snapshot = world.server.store.snapshot()
        assert snapshot.version is not None
        self._version(snapshot.version)
        world.server.store.watch = self.committed
        world.broker.watch = self.holders.published

    def storage(self, device: str) -> WatchedStorage:
        """Return the storage of a new device."""
        storage = self.storages[device] = WatchedStorage()
        storage.wrote = partial(self._stored, device)
        return storage

    def _stored(self, device: str, key: str, data: bytes) -> None:
        if key == PENDING:
            session = self.world.devices[device].session
            newest = 0 if session is None else session.newest_version
            pending = unpack_pending(data)
            self.plaintexts.stored(device, self.storages[device], pending, newest)
        self.holders.stored(device, key, data)

    @property
    def open_ids(self) -> set[bytes]:
        """Accepted updates that are neither counted nor refused yet."""
        return self.journalled.keys() - self.counted.keys() - self.refused

    # --- at each commit ----------------------------------------------------------------------

    def committed(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case DocumentRecord(key, data) if data and key.startswith(REQUEST):
                    request = unpack(data, RecoveryRequest)
                    self.holders.requests[request_hash(request)] = request
                case DocumentRecord(key, data) if data and key.startswith(_SUPPORT):
                    self.plaintexts.named[int(key.removeprefix(_SUPPORT))] = data
                case JournalRecord():
                    assert record.lease_id not in self.journalled, "journalled twice"
                    self.journalled[record.lease_id] = record.update
                case RefusalRecord():
                    self._refused(record)
                case VersionRecord():
                    self._version(record)

    def _refused(self, record: RefusalRecord) -> None:
        """An accepted update is counted once, or refused for a reason that keeps its delta."""
        if record.lease_id in self.counted:
            return
        if record.lease_id in self.journalled:
            assert record.reason in refusals.FOLDED, f"accepted, then refused: {record.reason}"
        self.refused.add(record.lease_id)

    def _version(self, record: VersionRecord) -> None:
        assert record.version == self.version + 1, "a version was skipped or made twice"
        self.version = record.version
        ids = set(record.counted)
        assert len(ids) == len(record.counted), "counted twice in one version"
        assert not ids & self.counted.keys(), "counted twice"
        assert not ids & self.refused, "counted after it was refused"
        assert ids <= self.journalled.keys(), "counted before it was journalled"
        updates = self.plaintexts.updates
        plains = {each: updates[self.journalled[each]] for each in record.counted}
        self.counted |= plains
        params = np.frombuffer(record.params, "<f4").astype(np.float64)
        if self._params is not None:
            self._check_sum(list(plains.values()), params - self._params)
        self._params = params

    def _check_sum(self, plains: Sequence[Plain], step: Float64) -> None:
        """Only sums over enough distinct devices, one mask each, that U answered; and right ones.

        The recovered mean is that of the plaintexts, within the computed bound.
        """
        assert len({plain.masked.roster_hash for plain in plains}) == 1, "two epochs in a sum"
        assert len({plain.masked.support for plain in plains}) == 1, "two supports in a sum"
        roster = self.holders.rosters[plains[0].masked.roster_hash]
        given = roster.parameters
        masks = {_index(roster, plain.device): plain.masked.counter for plain in plains}
        assert len(masks) == len(plains), "two masks of one device in a sum"
        assert len(masks) <= given.max_contributors
        groups = [self._check_group(roster, group) for group in self._groups(roster, plains)]
        weights = np.array([len(group) for group in groups])
        means = [self.plaintexts.mean(group, given) for group in groups]
        expected = weights @ np.array([mean for mean, _ in means]) / weights.sum()
        bound = max(bound for _, bound in means)
        off = float(np.abs(step - expected).max())
        assert off <= bound, f"version {self.version} is off by {off}, allowed are {bound}"
        self._model += step * sum(self.plaintexts.part(plain, given) for plain in plains)

    def _groups(self, roster: Roster, plains: Sequence[Plain]) -> list[list[Plain]]:
        """Return which updates were summed together: what their stored requests name."""
        left = {(_index(roster, each.device), each.masked.counter): each for each in plains}
        groups = []
        for request in self.holders.requests.values():
            of, masks = self.holders.masks(request)
            if of == roster and masks.items() <= left.keys():
                groups.append([left.pop(mask) for mask in masks.items()])
        assert not left, "an update that no request named"
        return groups

    def _check_group(self, roster: Roster, plains: list[Plain]) -> list[Plain]:
        given = roster.parameters
        assert len(plains) >= max(given.min_contributors, given.group)
        masks = {_index(roster, plain.device): plain.masked.counter for plain in plains}
        answers = self.holders.answers(self.holders.request_for(roster, masks))
        assert len(answers) >= given.num_answers, "decoded from fewer than U answers"
        if not self._has_decoded:
            _check_decoding(roster, answers)
        self._has_decoded = True
        return plains

    # --- at each receipt and refusal ---------------------------------------------------------

    def closed(self, device: str, pending: Pending, *, counted: bool) -> None:
        durable = self.counted if counted else self.refused
        assert pending.lease_id in durable, f"{device} was told what is not in the store"
        if counted:
            assert self.journalled[pending.lease_id] == pending.update
        self.outcomes[device] = self.outcomes.get(device, 0) + 1

    # --- at the end --------------------------------------------------------------------------

    def check(self) -> None:
        """What was counted is in the model once; the rest is on a device; sums alone are known."""
        ids = [lease_id for _, lease_id in self.world.server.store.counted_ids()]
        assert len(ids) == len(self.counted), "an id is in the versions twice"
        assert set(ids) == self.counted.keys()
        self.holders.check_exposed()
        if self.plaintexts.codec.contractive and not self.holders.malicious:
            self.plaintexts.check_conservation(self.counted, self.storages.values())
        has_groups = self.world.server.config.robust.group
        if self.plaintexts.codec.support == DENSE and not has_groups:
            self._check_counts()

    def _check_counts(self) -> None:
        """Each counted update is in the model once, with its weight, and no other ever is."""
        expected = np.zeros(SIZE)
        for plain in self.counted.values():
            given = self.holders.rosters[plain.masked.roster_hash].parameters
            expected[plain.coordinate] += self.plaintexts.part(plain, given)
        np.testing.assert_allclose(self._model, expected, atol=ROUNDED)


def _check_decoding(roster: Roster, answers: Mapping[str, bytes]) -> None:
    """Fewer than U answers never decode; any U of them decode to the same."""
    given = roster.parameters
    sharing = scheme(given.scheme).sharing(given)
    size = scheme(given.scheme).secret_size(given)
    rows = {
        _index(roster, device): from_bytes(data, given.modulus, columns(size, sharing))
        for device, data in answers.items()
    }
    holders = sorted(rows)
    first = {each: rows[each] for each in holders[: given.num_answers]}
    last = {each: rows[each] for each in holders[-given.num_answers :]}
    same = recover(first, sharing, size).secret == recover(last, sharing, size).secret
    assert same.all(), "two sets of U answers decode to two sums"
    first.popitem()
    try:
        recover(first, sharing, size)
    except RecoveryError:
        return
    raise AssertionError("fewer than U answers decode")


def _index(roster: Roster, device: str) -> int:
    index = roster.index(device)
    assert index is not None, f"{device} is in no roster"
    return index
