"""Whose updates are in a buffer, how late they are, and how much of the params they bring."""

from collections.abc import Iterable

from aggregator.leases import Lease, LeaseBook
from aggregator.statistics import gain_of
from protocol.vectors.packing import RANDK, parse_codec


def leases_of(ids: Iterable[bytes], book: LeaseBook) -> list[Lease]:
    """Return the leases of these updates, as far as they are open."""
    return [lease for id_ in ids if (lease := book.get(id_)) is not None]


def devices_of(leases: Iterable[Lease]) -> list[str]:
    """Return whose each of these updates is."""
    return [lease.record.device for lease in leases]


def staleness_of(leases: Iterable[Lease], version: int) -> dict[str, int]:
    """Return the devices of these updates, and how many versions late each is."""
    return {lease.record.device: version - lease.record.version for lease in leases}


def gain(leases: list[Lease], version: int, size: int) -> float:
    """How far statistics follow the mean of these updates; ``size`` params are trained."""
    oldest = min((lease.record.version for lease in leases), default=version)
    codecs = {lease.record.codec for lease in leases}
    kept = min((_kept_part(codec, size) for codec in codecs), default=1.0)
    return gain_of(version - oldest, kept)


def _kept_part(spelled: str, size: int) -> float:
    """Return the part of the coordinates that a codec sends enlarged; 1: it enlarges none."""
    codec = parse_codec(spelled)
    is_enlarged = codec.support == RANDK and not codec.contractive
    return codec.num_kept(size) / size if is_enlarged else 1.0
