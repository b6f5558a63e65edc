"""`lightsecagg`: every device hands out shares of its whole mask, and masks are exact.

LightSecAgg (So et al., MLSys 2022), with one-time shares. Its asynchronous form (BASecAgg, arXiv
2110.02177) is the same code, since sums of shares decode to the sum of masks whenever they were
dealt. The field has 65,521 elements: two bytes each. A mask masks one update, ever.
"""

from typing import Final

import numpy as np

from protocol.secagg.field import P16, Elements, uniform, word_type, words
from protocol.secagg.parameters import Parameters
from protocol.secagg.shares import Sharing
from protocol.stream import derive

_BAND: Final = 1 << 14  # elements at a time: what lies between stays in the cache


def secret(parameters: Parameters, seed: bytes) -> Elements:
    """What is shared: the mask (size,) itself, `uniform` elements of the seed's child "secret"."""
    return uniform(derive(seed, "secret"), (parameters.size,), P16)


def secret_size(parameters: Parameters) -> int:
    """How many elements a secret has: those of the update."""
    return parameters.size


def sharing(parameters: Parameters) -> Sharing:
    """How secrets are shared."""
    return Sharing(parameters.num_devices, parameters.num_answers, parameters.num_noise, P16)


def mask(
    parameters: Parameters, _public_seed: bytes, secret: Elements, values: Elements, _seed: bytes
) -> bytes:
    """The body of the update: values plus mask modulo p, two bytes each.

    ``values`` (size,), within +-limit, else LocalProtocolError. The seeds are not used.
    """
    parameters.check_values(values)
    body = np.empty(values.size, word_type(P16))
    for start in range(0, values.size, _BAND):
        band = slice(start, start + _BAND)
        masked = values[band] + secret[band]
        # Above -p, below 2 p: a division would take longer.
        np.add(masked, P16, out=masked, where=masked < 0)
        np.subtract(masked, P16, out=masked, where=masked >= P16)
        body[band] = masked
    return body.tobytes()


def add(parameters: Parameters, total: Elements, body: bytes) -> None:
    """Add an arriving update to ``total`` (size,), in place. One of weight w is added w times.

    Raises RemoteProtocolError (malformed), and then has added nothing.
    """
    total += words(body, P16, parameters.size)


def unmask(
    parameters: Parameters,
    _public_seed: bytes,
    total: Elements,
    num_updates: int,
    secret_sum: Elements,
) -> Elements:
    """The exact sums of the values (size,), centred.

    ``total`` holds ``num_updates`` updates (one of weight w counts as w), ``secret_sum`` is the sum
    of just their masks. Another one leaves uniform values, of which a sixteenth or more are beyond
    what any values can add up to: raises RecoveryError.
    """
    sums = (total - secret_sum + P16 // 2) % P16 - P16 // 2
    parameters.check_sums(sums, num_updates)
    return sums


def noise_bound(_parameters: Parameters, _num_updates: int) -> int:
    """How far an unmasked sum may be from the true one: not at all."""
    return 0
