"""The curious relay: what a broker, which passes on every share, makes of them.

Whoever holds enough shares of one mask reads the update under it. Where shares cross a server in
the open (as in published implementations of secure aggregation), that is the server. Here they are
sealed, holder by holder; a relay with friends among the holders opens the shares of those.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from fedbus.audit.masked import Cohort, Masked
from protocol.secagg import scheme, shares
from protocol.secagg.field import Elements, word_type

Floats = npt.NDArray[np.float64]


def read(cohort: Cohort, update: Masked, insiders: Collection[int]) -> Floats:
    """Return the values that a relay reads, which opens the shares of ``insiders`` (holders).

    The shares of all others it takes as they travel. With U or more insiders it reads the update
    itself; that nobody has so many is what a cohort's T is for.
    """
    sharing = scheme(cohort.parameters.scheme).sharing(cohort.parameters)
    known = sorted(insiders)[: sharing.num_answers]
    others = [holder for holder in sorted(update.sealed) if holder not in known]
    asked = [*known, *others][: sharing.num_answers]
    num_columns = shares.columns(update.secret.size, sharing)  # what follows them are tests
    rows = {holder: _row(update, holder, sharing.modulus, known)[:num_columns] for holder in asked}
    secret = shares.recover(rows, sharing, update.secret.size).secret
    try:
        return cohort.values(update.body, secret)
    except shares.RecoveryError:  # the count beside the values says that the secret is wrong
        return cohort.seen(update.body)


def _row(update: Masked, holder: int, modulus: int, insiders: Collection[int]) -> Elements:
    data = update.opened[holder].rows
    if holder not in insiders:
        data = update.sealed[holder].sealed[: len(data)]
    return np.frombuffer(data, word_type(modulus)).astype(np.int64) % modulus
