"""`pairwise`: SecAgg (Bonawitz et al., CCS 2017), safe against an aggregator that lies.

It is the variant with the consistency round, on the graph of SecAgg+ (`protocol.secagg.graph`).

One function per step; the machines that call them keep the state. A device is its place in the
roster, and a neighbour a neighbour in the round's graph.

1. Every device sends `Publics` (its keys), signed: `keys_message`.
2. It deals shares of its mask key and of its self mask's seed to its neighbours that advertised
   (`make_shares`, `seal`). Those whose shares arrived are the **dealers**; the aggregator says
   who. (These two steps are in `protocol.secagg.pairwise_keys`.)
3. A dealer sends ``values + self mask +- a mask for each neighbour that dealt`` modulo 2**32
   (`mask`; added towards a device of higher index, else subtracted), and signs its `View`: what
   it believes of the dealers and their keys.
4. The aggregator announces the **survivors**, whose values arrived, with their signed views. Every
   survivor checks that all had the same view as itself (`check_outcome`), then signs it.
5. On a quorum of these signatures a survivor answers: its shares of the survivors' seeds and of the
   dropped dealers' keys (`unmask_answer`). The aggregator rebuilds them and removes all masks
   (`unmask`); the masks between survivors have cancelled.

Whoever has both secrets of a device can read its values. Two quorums (more than (N + t) / 2 each)
have an honest device in common, which signs one outcome only: so all honest holders give the same
one of the two, and the other stays with at most t, fewer than the threshold. The graph's check
(`Graph.is_cuttable`) and the signed views make sure that masks with other honest survivors remain.

A device must use a round's seed for one `mask` and sign one outcome, whatever happens: its machine
stores that it did, first. Nothing here is constant-time beyond what libsodium does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.bindings import randombytes_buf_deterministic

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import KEY_BYTES
from protocol.secagg import field, keys, shamir
from protocol.secagg.field import Q31, Elements
from protocol.secagg.pairwise_keys import Part, Publics, Round, commit, pair_seed
from protocol.secagg.shamir import LIMBS, SHARE_BYTES
from protocol.secagg.shares import RecoveryError
from protocol.stream import derive

#: Purposes of signatures (`keys.sign`).
VIEW: Final = b"fedbus/1 pairwise view\0"
OUTCOME: Final = b"fedbus/1 pairwise outcome\0"

#: A mask is expanded in pages of 64 KiB: they stay in the processor's cache.
PAGE_WORDS: Final = 1 << 14

_NO_SEED: Final = bytes(KEY_BYTES)

Ring = npt.NDArray[np.uint32]
Values = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class View:
    """Who dealt (sorted indices), and what a dealer signs for `VIEW`: these and their keys."""

    dealers: tuple[int, ...]
    message: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whose values arrived (sorted indices), of the dealers of our own view."""

    view: View
    survivors: tuple[int, ...]

    @property
    def dropped(self) -> tuple[int, ...]:
        """The other dealers, sorted: no device is a survivor and dropped."""
        return tuple(dealer for dealer in self.view.dealers if dealer not in self.survivors)

    @property
    def message(self) -> bytes:
        """What a survivor signs for `OUTCOME`, after `check_outcome`, once a round."""
        return derive(self.view.message, "outcome", bytes(self.survivors))


def view(round_: Round, publics: Mapping[int, Publics], dealers: tuple[int, ...]) -> View:
    """Return the view of a device that was told of ``dealers``; their ``publics`` were checked.

    Raises RemoteProtocolError (``wrong_members``) for too few of them, or what cannot be members.
    """
    in_order = all(low < high for low, high in pairwise(dealers))
    if not in_order or not set(dealers) <= set(range(round_.roster.parameters.num_devices)):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not members, sorted, each once")
    if len(dealers) < round_.quorum:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "too few dealers")
    advertised = b"".join(publics[dealer].to_bytes() for dealer in dealers)
    return View(dealers, derive(_NO_SEED, "view", *round_.context, bytes(dealers), advertised))


def mask(part: Part, publics: Mapping[int, Publics], seen: View, values: Values) -> bytes:
    """Return the body of the update: ``values`` (within the parameters' limit) under their masks.

    Raises LocalProtocolError for values out of range, RemoteProtocolError (``wrong_members``) if
    this device is no dealer.
    """
    round_, own, secrets = part.round, part.own, part.secrets
    parameters = round_.roster.parameters
    if values.shape != (parameters.size,):
        raise LocalProtocolError(f"{values.shape} values, not {parameters.size}")
    if values.max() > parameters.limit or values.min() < -parameters.limit:
        raise LocalProtocolError(f"values beyond {parameters.limit}")
    if own not in seen.dealers:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "this device is no dealer")
    total = values.astype(np.uint32)  # modulo 2**32
    _add_mask(total, secrets.self_seed)
    for other in round_.dealers_of(own, seen.dealers):
        if other != own:
            seed = pair_seed(round_, own, secrets.mask_key, other, publics[other])
            _add_mask(total, seed, np.add if own < other else np.subtract)
    return total.astype("<u4").tobytes()


def check_outcome(part: Part, outcome: Outcome, views: Mapping[int, bytes]) -> None:
    """Check what the aggregator announced, before signing it.

    ``views`` has the survivors' signatures of their views. Raises RemoteProtocolError:
    ``wrong_members`` for survivors that cannot be, too few of them, or so few in some part of the
    graph that the sum could be parted; ``bad_signature`` if one does not share our view.
    """
    round_, parameters = part.round, part.round.roster.parameters
    _check_survivors(part, outcome)
    if len(outcome.survivors) < max(round_.quorum, parameters.min_contributors):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "too few survivors")
    if round_.graph.is_cuttable(outcome.survivors, parameters.num_malicious):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "too few survivors next to each other")
    for survivor in outcome.survivors:
        _check_signature(round_, survivor, VIEW, outcome.view.message, views)


def unmask_answer(
    part: Part, held: Mapping[int, bytes], outcome: Outcome, signatures: Mapping[int, bytes]
) -> bytes:
    """Return our shares: of a survivor its self mask's seed, of a dropped dealer its mask key.

    Never both of one device. ``held`` has the `PAIR_BYTES` of each dealer that dealt to us,
    ``signatures`` those of a quorum of survivors. The outcome is one that passed `check_outcome`.
    Raises RemoteProtocolError: ``wrong_members`` for survivors that cannot be or too few that
    signed, ``bad_signature``, ``shares_missing``.
    """
    round_ = part.round
    _check_survivors(part, outcome)
    if len(signatures) < round_.quorum or not set(signatures) <= set(outcome.survivors):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "no quorum of survivors signed this")
    message = outcome.message
    for survivor in signatures:
        _check_signature(round_, survivor, OUTCOME, message, signatures)
    dealers = round_.dealers_of(part.own, outcome.view.dealers)
    if missing := [dealer for dealer in dealers if dealer not in held]:
        raise RemoteProtocolError(refusals.SHARES_MISSING, f"no shares of devices {missing}")
    of_key, of_seed = slice(SHARE_BYTES), slice(SHARE_BYTES, None)
    survivors = frozenset(outcome.survivors)
    return b"".join(held[dealer][of_seed if dealer in survivors else of_key] for dealer in dealers)


def read_answer(round_: Round, holder: int, outcome: Outcome, answer: bytes) -> Elements:
    """Return a survivor's answer as a row of `LIMBS` for each dealer that dealt to it.

    Raises RemoteProtocolError (``malformed``; ``wrong_members`` from anybody but a survivor).
    """
    if holder not in outcome.survivors:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "an answer of no survivor")
    num_dealers = len(round_.dealers_of(holder, outcome.view.dealers))
    return field.from_bytes(answer, Q31, LIMBS * num_dealers).reshape(num_dealers, LIMBS)


def add(total: Ring, body: bytes) -> None:
    """Add an arriving update to ``total`` in place.

    Raises RemoteProtocolError (``wrong_shape``).
    """
    if len(body) != 4 * total.size:
        raise RemoteProtocolError(refusals.WRONG_SHAPE, f"{len(body)} bytes")
    np.add(total, np.frombuffer(body, "<u4"), out=total)


def unmask(
    round_: Round,
    publics: Mapping[int, Publics],
    outcome: Outcome,
    total: Ring,
    answers: Mapping[int, Elements],
) -> Values:
    """Return the exact sum of the survivors' values; ``total`` is the sum of their bodies.

    Raises RecoveryError if some device has fewer shares than the threshold, or if they do not give
    the secrets that were advertised; LocalProtocolError for more than ``max_contributors``.
    """
    if len(outcome.survivors) > round_.roster.parameters.max_contributors:
        raise LocalProtocolError(f"{len(outcome.survivors)} updates could overflow")
    secrets = _rebuild(round_, outcome, answers)
    left = total.copy()
    for survivor in outcome.survivors:
        if commit(secrets[survivor]) != publics[survivor].commitment:
            raise RecoveryError(f"inconsistent: not the seed that device {survivor} committed to")
        _add_mask(left, secrets[survivor], np.subtract)
    survivors = frozenset(outcome.survivors)
    for gone in outcome.dropped:
        if keys.epoch_public(secrets[gone]) != publics[gone].mask_key:
            raise RecoveryError(f"inconsistent: not the mask key of device {gone}")
        for other in survivors.intersection(round_.graph.holders(gone)):
            seed = pair_seed(round_, gone, secrets[gone], other, publics[other])
            _add_mask(left, seed, np.subtract if other < gone else np.add)
    return left.view(np.int32).astype(np.int64)


def _rebuild(round_: Round, outcome: Outcome, answers: Mapping[int, Elements]) -> dict[int, bytes]:
    """Return dealer -> its secret that the answers hold shares of."""
    rows: dict[int, dict[int, Elements]] = {dealer: {} for dealer in outcome.view.dealers}
    for holder, answer in answers.items():
        for dealer, row in zip(
            round_.dealers_of(holder, outcome.view.dealers), answer, strict=True
        ):
            rows[dealer][holder + 1] = row
    # Dealers with the same holders are decoded at once: in a complete graph all.
    alike: dict[tuple[int, ...], list[int]] = {}
    for dealer in outcome.view.dealers:
        alike.setdefault(tuple(sorted(rows[dealer])), []).append(dealer)
    secrets: dict[int, bytes] = {}
    for points, dealers in alike.items():
        shares = {
            point: np.concatenate([rows[dealer][point] for dealer in dealers]) for point in points
        }
        found = shamir.recover(shares, round_.graph.threshold)
        secrets.update(zip(dealers, found, strict=True))
    return secrets


def _add_mask(total: Ring, seed: bytes, operation: np.ufunc = np.add) -> None:
    """Add the mask of ``seed`` (or subtract it) in place: ChaCha20 words, little-endian."""
    for page, start in enumerate(range(0, total.size, PAGE_WORDS)):
        part = total[start : start + PAGE_WORDS]
        words = randombytes_buf_deterministic(part.nbytes, derive(seed, page))
        operation(part, np.frombuffer(words, "<u4"), out=part)


def _check_signature(
    round_: Round, device: int, purpose: bytes, message: bytes, signatures: Mapping[int, bytes]
) -> None:
    identity = round_.roster.members[device].identity
    keys.check_signature(identity, purpose, message, signatures.get(device, b""))


def _check_survivors(part: Part, outcome: Outcome) -> None:
    in_order = all(low < high for low, high in pairwise(outcome.survivors))
    if not in_order or not set(outcome.survivors) <= set(outcome.view.dealers):
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not dealers, sorted, each once")
    if part.own not in outcome.survivors:
        raise RemoteProtocolError(refusals.WRONG_MEMBERS, "this device is no survivor")
