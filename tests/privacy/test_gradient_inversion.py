"""Gradient inversion: what a plain upload shows, a masked one, and a sum.

The analytic attack (Geiping et al., NeurIPS 2020, proposition 3.1): one step of SGD on one sample
moves the weights into a unit of a dense layer by the sample times what it moves the unit's bias by,
so that the quotient is the sample. On plain uploads it must succeed, or its failing on masked ones
would prove nothing; and on those whose mask was left out it must succeed again.

The correlation of 784 numbers with unrelated ones is 0 on average, of standard deviation 0.036;
that any of 50 is beyond 0.18 (five of these) happens once in 35,000 times.

A sum over few devices is *not* safe from this attack: the last tests say what it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.dealing import Mask
from device_sdk.engine import Model, TrainingSettings, fit, parse_spec
from device_sdk.engine.data import as_blocks
from device_sdk.masking import Chosen, make_masked
from protocol.codec import unpack
from protocol.messages import Lease
from protocol.secagg import fixedpoint, scheme, shares
from protocol.secagg.field import Elements, from_bytes, to_bytes
from protocol.secagg.messages import MaskedUpdate
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster
from protocol.stream import Stream, derive
from protocol.vectors.packing import decode, encode, parse_codec
from tests.support.enrolment import cohort

Floats = npt.NDArray[np.float64]

SEED = bytes(range(32))
NUM_PIXELS, NUM_UNITS, NUM_CLASSES = 784, 16, 10
TRIALS = range(50)
SCHEMES = ("seedmask", "lightsecagg")
DEVICES = ("a", "b", "c", "d", "e")
#: t = 1: no sum is over fewer.
MIN_CONTRIBUTORS = 3
SOFTMAX = Model(
    parse_spec(
        {
            "input": [NUM_PIXELS],
            "layers": [{"type": "dense", "units": NUM_CLASSES}],
            "loss": "softmax_cross_entropy",
        }
    )
)
HIDDEN = Model(
    parse_spec(
        {
            "input": [NUM_PIXELS],
            "layers": [
                {"type": "dense", "units": NUM_UNITS},
                {"type": "relu"},
                {"type": "dense", "units": NUM_CLASSES},
            ],
            "loss": "softmax_cross_entropy",
        }
    )
)
MODELS = (SOFTMAX, HIDDEN)
IDS = ("softmax", "hidden")


# --- the device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Victim:
    """A device's samples, and what one step on all of them changes."""

    samples: Floats
    delta: npt.NDArray[np.float32]


def victim(model: Model, trial: int, num_samples: int = 1) -> Victim:
    stream = Stream(derive(SEED, "samples", trial))
    samples = stream.uniform(num_samples * NUM_PIXELS).reshape(num_samples, NUM_PIXELS)
    labels = stream.integers(NUM_CLASSES, num_samples)
    params = model.init(derive(SEED, "params"))
    trained = params.copy()
    step = TrainingSettings(epochs=1, batch_size=num_samples, learning_rate=0.1)
    fit(model, trained, as_blocks((samples, labels)), step, SEED)
    return Victim(samples.astype(np.float64), trained - params)


def plain(model: Model, delta: npt.NDArray[np.float32]) -> Floats:
    """What the aggregator decodes from a plain upload."""
    codec = parse_codec("dense/float32")
    body = encode(delta, codec, model.layout, rounding_seed=SEED, support_seed=SEED)
    return decode(body, codec, model.layout, support_seed=SEED).values.astype(np.float64)


def roster(model: Model, name: str) -> Roster:
    """A cohort in which three contribute: the fewest that a sum may be over."""
    size = model.layout.size + 1
    return cohort(DEVICES, scheme=name, size=size, max_contributors=MIN_CONTRIBUTORS).roster


def masked(where: Roster, delta: npt.NDArray[np.float32], mask: Mask) -> bytes:
    """The body of the update that leaves the device."""
    codec = f"dense/{where.parameters.scheme}"
    lease = Lease(bytes(16), bytes(16), 0, bytes(32), 0, 1, codec, 1 << 20, 0, 60)
    pending, num_saturated = make_masked(
        lease,
        parse_codec(codec),
        delta,
        1,
        staleness=0,
        chosen=Chosen(0, None),
        roster=where,
        mask=mask,
        residual=None,
    )
    assert num_saturated == 0  # else the clip would be what protects
    return unpack(pending.update, MaskedUpdate).body


def dealt(trial: int) -> Mask:
    return Mask(trial, derive(SEED, "mask", trial), (), b"")


class Bare(Mask):
    """A mask whose secret is zero; its errors are still there, and do not help."""

    def secret(self, where: Roster) -> Elements:
        return np.zeros(scheme(where.parameters.scheme).secret_size(where.parameters), np.int64)


def summed(where: Roster, deltas: Sequence[npt.NDArray[np.float32]], first: int) -> Floats:
    """What the aggregator learns of a buffer: the sum, decoded from U holders' answers."""
    given, chosen = where.parameters, scheme(where.parameters.scheme)
    sharing, total = chosen.sharing(given), np.zeros(given.size, np.int64)
    rows = []
    for number, delta in enumerate(deltas, first):
        mask = dealt(number)
        chosen.add(given, total, masked(where, delta, mask))
        rows.append(shares.deal(mask.secret(where), sharing, derive(mask.seed, "dealing")))
    answers = {
        holder: shares.add(np.stack([row[holder] for row in rows]), sharing.modulus)
        for holder in range(given.num_answers)
    }
    secret = shares.recover(answers, sharing, chosen.secret_size(given)).secret
    sums = chosen.unmask(given, where.public_seed, total, len(deltas), secret)
    return sums[:-1] / given.scale


# --- the attacker --------------------------------------------------------------------------------


def inverted(model: Model, delta: Floats, unit: int | None = None) -> Floats:
    """The sample, from what it changed: by default through the unit whose bias moved most."""
    weights, bias = np.split(delta, model.layout.bounds[1:])[:2]
    chosen = int(np.abs(bias).argmax()) if unit is None else unit
    found: Floats = weights.reshape(NUM_PIXELS, bias.size)[:, chosen] / bias[chosen]
    return found


def seen(given: Parameters, body: bytes) -> Floats:
    """The values as the aggregator can read them in one device's body."""
    if given.scheme == "seedmask":
        elements = fixedpoint.unpack(body, given.width, given.size) << given.shift
    else:
        elements = from_bytes(body, given.modulus, given.size)
    half = given.modulus // 2
    return ((elements + half) % given.modulus - half)[:-1] / given.scale


def moved(model: Model, delta: Floats) -> list[int]:
    """The units whose biases moved by more than the noise of a sum."""
    bias = np.split(delta, model.layout.bounds[1:])[1]
    return [int(unit) for unit in np.flatnonzero(np.abs(bias) > 1e-3)]


def unmasked(given: Parameters, values: Elements) -> bytes:
    """The mutant written out: no secret, no errors."""
    elements = values % given.modulus
    if given.scheme == "seedmask":
        return fixedpoint.pack(elements >> given.shift, given.width)
    return to_bytes(elements, given.modulus)


def error(found: Floats, sample: Floats) -> float:
    return float(np.linalg.norm(found - sample) / np.linalg.norm(sample))


def correlation(found: Floats, sample: Floats) -> float:
    return float(np.corrcoef(found, sample)[0, 1])


# --- one device ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_a_plain_upload_shows_the_sample(model: Model) -> None:
    """The positive control."""
    for trial in TRIALS:
        whose = victim(model, trial)
        assert error(inverted(model, plain(model, whose.delta)), whose.samples[0]) < 1e-5


@pytest.mark.parametrize("model", MODELS, ids=IDS)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_masked_upload_shows_nothing(name: str, model: Model) -> None:
    where = roster(model, name)
    found = []
    for trial in TRIALS:
        whose = victim(model, trial)
        delta = seen(where.parameters, masked(where, whose.delta, dealt(trial)))
        found.append(correlation(inverted(model, delta), whose.samples[0]))
    sizes, deviation = np.abs(found), NUM_PIXELS**-0.5
    assert sizes.mean() < 0.1  # about 0.028: that of unrelated numbers
    assert sizes.max() < 5 * deviation
    assert abs(np.mean(found)) < 4 * deviation * len(TRIALS) ** -0.5


@pytest.mark.parametrize("name", SCHEMES)
def test_without_its_secret_a_masked_upload_shows_the_sample(name: str) -> None:
    """The mutant; left is the error of a fixed-point number. Errors alone hide nothing."""
    where = roster(HIDDEN, name)
    for trial in TRIALS:
        whose = victim(HIDDEN, trial)
        values, _ = where.parameters.encode(whose.delta, 1)
        bare = Bare(trial, derive(SEED, "mask", trial), (), b"")
        for body in (masked(where, whose.delta, bare), unmasked(where.parameters, values)):
            found = inverted(HIDDEN, seen(where.parameters, body))
            assert error(found, whose.samples[0]) < 0.02
            assert correlation(found, whose.samples[0]) > 0.999


# --- sums ----------------------------------------------------------------------------------------


def part_shown(model: Model, name: str, num_samples: int) -> float:
    """Of the samples of three devices that are summed, how many come out but for 5 %."""
    where = roster(model, name)
    errors = []
    for trial in range(0, 20 * MIN_CONTRIBUTORS, MIN_CONTRIBUTORS):
        numbers = range(trial, trial + MIN_CONTRIBUTORS)
        devices = [victim(model, number, num_samples) for number in numbers]
        delta = summed(where, [device.delta for device in devices], trial)
        found = [inverted(model, delta, unit) for unit in moved(model, delta)]
        errors += [
            min(error(each, sample) for each in found)
            for device in devices
            for sample in device.samples
        ]
    return float(np.mean(np.array(errors) < 0.05))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_sum_of_three_devices_with_one_sample_each_still_shows_most_of_them(name: str) -> None:
    """A rectified unit that was active for one sample alone shows it, whoever else is in the sum.

    Secure aggregation gives the sum exactly, with all that a sum of so few shows.
    """
    assert part_shown(HIDDEN, name, 1) > 0.5


@pytest.mark.parametrize("name", SCHEMES)
def test_a_sum_of_three_devices_with_sixteen_samples_each_shows_hardly_any(name: str) -> None:
    """To this attack, that is: nothing is promised of others."""
    assert part_shown(HIDDEN, name, 16) < 0.03


@pytest.mark.parametrize("name", SCHEMES)
def test_without_hidden_units_a_sum_blends_the_samples(name: str) -> None:
    """Softmax alone moves every unit for every sample: a blend comes out, of which labels tell."""
    assert 0.05 < part_shown(SOFTMAX, name, 1) < 0.3
    assert part_shown(SOFTMAX, name, 4) < 0.02
