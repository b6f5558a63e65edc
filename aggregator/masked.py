"""The buffers of a secure task, of the scheme that its settings name."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from aggregator.actions import Action
from aggregator.cohorts import Cohorts
from aggregator.leases import LeaseBook
from aggregator.pairwise import PairwiseBuffers
from aggregator.publication import Publication
from aggregator.records import Snapshot
from aggregator.secagg import SecureBuffers
from aggregator.secure_config import Enrolment
from aggregator.supports import Supports
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.parameters import PAIRWISE
from protocol.topics import Topics
from protocol.vectors.packing import CodecSpec

MaskedBuffers = SecureBuffers | PairwiseBuffers


class Shared(NamedTuple):
    """What the buffers have in common with the coordinator."""

    publication: Publication
    leases: LeaseBook
    counts: Counter[str]
    alert: Callable[[str, str, str], None]
    is_online: Callable[[str], bool]


def make_masked_buffers(
    task: TaskConfig,
    enrolment: Enrolment,
    snapshot: Snapshot,
    now: float,
    *,
    topics: Topics,
    codec: CodecSpec,
    versions: Versions,
    size: int,
    shared: Shared,
    seed: bytes,
) -> tuple[MaskedBuffers, list[Action]]:
    """Return the buffers, and what must be stored: rosters that were laid down meanwhile.

    ``size`` params are trained; ``seed`` is for rounds. Raises ConfigError for a roster that does
    not fit.
    """
    config = enrolment.config
    cohorts = Cohorts(
        topics,
        enrolment.enrolment_key,
        shared.counts,
        lambda given: config.check_roster(task, given, size),
        alone=task.mode == "rounds" or task.uplink.calibrated,
    )
    cohorts.restore(snapshot.documents, now)
    opened = _offer_all(cohorts, enrolment, now)
    supports = Supports(
        topics,
        codec,
        size=size,
        every=config.support_every,
        documents=snapshot.documents,
        params=versions.trained,
        version=versions.number,
    )
    if codec.dtype == PAIRWISE:
        return PairwiseBuffers(
            task,
            publication=shared.publication,
            supports=supports,
            cohorts=cohorts,
            leases=shared.leases,
            seed=seed,
            counts=shared.counts,
            alert=shared.alert,
            is_online=shared.is_online,
        ), opened
    return SecureBuffers(
        task,
        enrolment,
        publication=shared.publication,
        supports=supports,
        cohorts=cohorts,
        counts=shared.counts,
        alert=shared.alert,
        is_online=shared.is_online,
    ), opened


def _offer_all(cohorts: Cohorts, enrolment: Enrolment, now: float) -> list[Action]:
    try:
        return cohorts.offer_all(enrolment.rosters, now)
    except RemoteProtocolError as error:
        raise ConfigError(f"a roster in secure.rosters: {error.detail}") from None
