"""Who holds which rows: the ways to deal a data set to devices. Same draws, same parts.

Each returns the row numbers of one device after the other; no row is dealt twice.
"""

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError

Rows = npt.NDArray[np.intp]
Labels = npt.NDArray[np.int64]
#: How much more (above 1) or less each device gets of each label: (labels, devices).
Tilt = npt.NDArray[np.float64]


def dirichlet(
    labels: Labels,
    rows: Rows,
    num_devices: int,
    *,
    alpha: float,
    min_samples: int,
    rng: np.random.Generator,
    tilt: Tilt | None = None,
) -> list[Rows]:
    """Deal label by label, with shares from Dirichlet(``alpha``) (T.-M. H. Hsu et al., 2019).

    The smaller ``alpha``, the fewer labels a device sees. ``tilt`` multiplies the shares. Whoever
    then has fewer than ``min_samples`` gets some of who has most. Raises ConfigError if there are
    too few rows for that.
    """
    _check_enough(rows, num_devices, min_samples)
    dealt: list[list[int]] = [[] for _ in range(num_devices)]
    for label in np.unique(labels[rows]):
        shares = rng.dirichlet(np.full(num_devices, alpha))
        if tilt is not None:
            shares = shares * tilt[label]
        shares = shares / shares.sum() if shares.sum() > 0 else np.full(num_devices, 1.0)
        mine = rng.permutation(rows[labels[rows] == label])
        cuts = np.round(np.cumsum(shares / shares.sum())[:-1] * mine.size).astype(np.intp)
        for part, some in zip(dealt, np.split(mine, cuts), strict=True):
            part.extend(some.tolist())
    return _filled_up(dealt, min_samples)


def tilted(
    labels_of_slow: tuple[int, ...], is_slow: list[bool], num_labels: int, factor: float
) -> Tilt:
    """Let slow devices hold ``factor`` times more of some labels, and as much less of the others.

    The set-up in which weighing updates down for being late hurts: what is late is also rare.
    """
    tilt = np.ones((num_labels, len(is_slow)))
    slow = np.array(is_slow, dtype=np.bool_)
    for label in range(num_labels):
        tilt[label, slow] = factor if label in labels_of_slow else 1 / factor
    return tilt


def shards(
    labels: Labels, rows: Rows, num_devices: int, *, per_device: int, rng: np.random.Generator
) -> list[Rows]:
    """Sort by label, cut into equal shards, deal ``per_device`` to each (McMahan et al., 2017).

    Raises ConfigError if a shard would be empty.
    """
    num_shards = num_devices * per_device
    if num_shards > rows.size:
        raise ConfigError(
            f"data.shards: {num_devices} devices x {per_device} shards, but {rows.size} rows"
        )
    shuffled = rng.permutation(rows)
    in_order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(in_order, num_shards)
    order = rng.permutation(num_shards).reshape(num_devices, per_device)
    return [np.concatenate([pieces[place] for place in mine]) for mine in order]


def clients(owner: Labels, rows: Rows, num_devices: int, rng: np.random.Generator) -> list[Rows]:
    """Deal natural clients whole; more clients than devices: several to one, sizes evened out.

    Rows of nobody (an owner below 0) are dealt one by one. Raises ConfigError if there are fewer
    clients than devices.
    """
    owned = rows[owner[rows] >= 0]
    owners, sizes = np.unique(owner[owned], return_counts=True)
    if num_devices > owners.size:
        raise ConfigError(
            f"data.client: {owners.size} clients with rows to train on, but {num_devices} devices:"
            " lower the classes' counts"
        )
    hands: list[list[int]] = [[] for _ in range(num_devices)]
    held = np.zeros(num_devices, dtype=np.int64)
    seats = rng.permutation(num_devices)  # else the first class would get the largest clients
    for place in np.argsort(-sizes, kind="stable"):
        least = int(seats[np.argmin(held[seats])])
        hands[least].append(int(owners[place]))
        held[least] += sizes[place]
    loose = np.array_split(rng.permutation(rows[owner[rows] < 0]), num_devices)
    return [
        np.concatenate([owned[np.isin(owner[owned], hand)], some])
        for hand, some in zip(hands, loose, strict=True)
    ]


def hold_out(
    rows: Rows, owner: Labels | None, fraction: float, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Return (rows to train on, rows held out); of each client the same part, if there are any."""
    if owner is None:
        order = rng.permutation(rows)
        cut = round(rows.size * fraction)
        return order[cut:], order[:cut]
    train, held_out = [], []
    for client in np.unique(owner[rows]):
        order = rng.permutation(rows[owner[rows] == client])
        cut = round(order.size * fraction)
        train.append(order[cut:])
        held_out.append(order[:cut])
    return np.concatenate(train), np.concatenate(held_out)


def _check_enough(rows: Rows, num_devices: int, min_samples: int) -> None:
    if num_devices * min_samples > rows.size:
        raise ConfigError(
            f"data.min_samples: {rows.size} rows are too few for {num_devices} devices with"
            f" {min_samples} each: lower it or the classes' counts, or study the protocol alone"
            " with [dry]"
        )


def _filled_up(dealt: list[list[int]], min_samples: int) -> list[Rows]:
    while len(fewest := min(dealt, key=len)) < min_samples:
        fewest.append(max(dealt, key=len).pop())
    return [np.array(part, dtype=np.intp) for part in dealt]
