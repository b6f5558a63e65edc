"""What a device is told that gets a lease, and the model if it could not put one together."""

import math
from collections import Counter
from typing import Final

from aggregator.downlink import Downlink, Route
from aggregator.granting import Granting
from aggregator.leases import Lease
from aggregator.masked import MaskedBuffers
from aggregator.publication import Publication
from protocol.actions import Publish
from protocol.messages import LEASE_ID_BYTES, CheckIn
from protocol.messages import Lease as LeaseMessage
from protocol.stream import derive
from protocol.topics import Kind
from protocol.vectors.hidden import DIFFERENCES
from protocol.vectors.layout import PARAM_BYTES

#: The one partition that this process serves.
PARTITION: Final = 0


class LeaseMessages:
    """``seed`` makes the lease ids; ``num_params`` is what a whole model has."""

    def __init__(
        self,
        publication: Publication,
        downlink: Downlink,
        granting: Granting,
        *,
        secure: MaskedBuffers | None,
        counts: Counter[str],
        seed: bytes,
        num_params: int,
    ) -> None:
        self._publication = publication
        self._downlink = downlink
        self._granting = granting
        self._secure = secure
        self._counts = counts
        self._seed = seed
        self._num_params = num_params
        self._num_leases = 0

    def new_id(self, version: int) -> bytes:
        """Return an id nobody can guess; the version in front keeps new ids together on disk."""
        self._num_leases += 1
        drawn = derive(self._seed, "lease", self._num_leases)
        return (version.to_bytes(5, "big") + drawn)[:LEASE_ID_BYTES]

    def bytes_down(self, check_in: CheckIn, version: int) -> int:
        """Return what a device fetches before it trains ``version``."""
        if check_in.unreachable:
            return PARAM_BYTES * self._num_params
        return self._downlink.num_bytes(version, _held(check_in))

    def of(self, lease: Lease, check_in: CheckIn, now: float) -> list[Publish]:
        """Return a lease, and the model for a device that could not put it together."""
        version = lease.record.version
        if not check_in.unreachable:
            route = self._downlink.route(version, _held(check_in))
            self._downlink.lend(version, route.base)
            return [self._message(lease, check_in, route, now)]
        self._counts["models_unreachable"] += 1
        self._downlink.make_whole(version)
        whole = self._publication.add(self._downlink.retained)
        whole = whole or self._publication.again((Kind.MODEL, version), now)
        route = self._downlink.whole_route(version)
        return [*whole, self._message(lease, check_in, route, now)]

    def _message(self, lease: Lease, check_in: CheckIn, route: Route, now: float) -> Publish:
        device, codec = lease.record.device, lease.record.codec
        message = LeaseMessage(
            lease.lease_id,
            check_in.install_id,
            lease.record.version,
            route.model_hash,
            route.model_bytes,
            self._publication.num_chunks(route.model_bytes),
            codec,
            self._granting.budget_bytes(codec),
            partition=PARTITION,
            ttl_s=max(1, math.ceil(lease.expires_at - now)),
            mask_epoch=0 if self._secure is None else self._secure.cohorts.epoch(device),
            upload_after_s=lease.upload_left_s(now),
            keyframe=route.keyframe,
            model=route.model,
            base=route.base,
        )
        return self._publication.to_device(device, message)


def _held(check_in: CheckIn) -> int:
    """Return the version from which a device can go on by differences; -1 for none."""
    return check_in.held_version if DIFFERENCES in check_in.codecs else -1
