"""The numbers that a cohort agrees on, what follows from them, and what is refused.

Each scheme sums integers modulo its modulus. ``limit`` is the largest integer that an update may
hold: so small that no buffer can overflow, and no smaller. Masked are the values, at ``scale``, and
one element more, the *count*: an update of n samples counts ``level(n)`` of ``levels``, its values
are multiplied by this part, and its last element is its level at ``step``. ``step`` is above twice
the noise of a full buffer, so that the sum of the levels is exact, and so the weighted mean's
divisor is a secure sum too.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from protocol.errors import ConfigError, LocalProtocolError
from protocol.messages import MAX_COHORT
from protocol.noise import cost_nano, on_grid
from protocol.secagg import fixedpoint
from protocol.secagg.field import P16, Q31, Elements
from protocol.secagg.noise_grid import NoiseGrid, noise_grid
from protocol.secagg.shares import MAX_WEIGHT, TEST_COLUMNS, RecoveryError
from protocol.staleness import CONSTANT, parse_staleness

SEEDMASK: Final = "seedmask"
LIGHTSECAGG: Final = "lightsecagg"
PAIRWISE: Final = "pairwise"

#: No smaller cohort: of two, each knows the other's update from the sum.
MIN_COHORT: Final = 3
#: Of fewer groups than this no rule can tell which one is wrong.
MIN_GROUPS: Final = 3
MIN_BITS: Final = 8
MAX_BITS: Final = 24
#: Fewer levels do not tell one number of samples from another.
MIN_LEVELS: Final = 4
#: No device weighs its update less than this for being late: who makes all but one seem late does
#: not single that one out. As for the integer weights of `protocol.secagg.shares`.
MIN_STALENESS_WEIGHT: Final = 1 / MAX_WEIGHT
#: No error of `seedmask` is larger: eight bytes around their mean.
MAX_ERROR: Final = 1_020

#: A share and its seal must fit into one message.
MAX_SHARE_BYTES: Final = 55_000

_RING_BITS: Final = 31
#: Scheme -> modulus, and what no sum may exceed in size. A sixteenth of half the modulus is free
#: where only the range of the sums tells a wrong secret; `pairwise` checks its secrets themselves.
_RINGS: Final = {
    SEEDMASK: (Q31, 15 * Q31 // 32),
    LIGHTSECAGG: (P16, 15 * P16 // 32),
    PAIRWISE: (1 << 32, (1 << 31) - 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a roster fixes for its cohort. Call `check` before anything else.

    N = ``num_devices`` of which t = ``num_malicious`` may be malicious; T = ``num_noise`` and U =
    ``num_answers`` as in `protocol.secagg.shares`; a sum has ``min_contributors`` to K =
    ``max_contributors`` updates of weights up to W = ``max_weight``. ``size`` counts the masked
    elements, the count among them; values are clipped to +-``clip``. ``bits`` (`seedmask` only) is
    the length of an element on the wire. ``samples_cap``: a device has no more samples' weight
    than that; 0 means that all devices weigh the same. ``staleness`` names the rule of
    `protocol.staleness` by which a device weighs what it masks late. ``group``: a buffer is summed
    in groups of so many updates (`protocol.secagg.groups`); 0: all together.

    Differential privacy (`protocol.secagg.noise_grid`): with ``multiplier_milli`` above 0 ``clip``
    bounds the L2 norm of an update, and each sum has noise of so many thousandths of it. A device
    sends no more updates than ``budget_nano`` (billionths of rho, `protocol.noise`) pays for.
    """

    scheme: str
    num_devices: int
    num_malicious: int
    num_noise: int
    num_answers: int
    min_contributors: int
    max_contributors: int
    max_weight: int = 1
    size: int
    clip: float
    bits: int
    samples_cap: int
    staleness: str = CONSTANT
    group: int = 0
    multiplier_milli: int = 0
    budget_nano: int = 0

    def check(self) -> None:
        """Raise ConfigError, saying what to change, unless every invariant is kept."""
        if self.scheme not in _RINGS:
            raise ConfigError(f"scheme {self.scheme!r}: use one of {', '.join(_RINGS)}")
        self._check_cohort()
        self._check_contributors()
        self._check_group()
        if self.size < 2:  # noqa: PLR2004 - a value, and the count
            raise ConfigError(f"size {self.size}: at least one value and the count are masked")
        if not (isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"clip must be above 0, not {self.clip}")
        if self.scheme == SEEDMASK and not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"bits must be {MIN_BITS} to {MAX_BITS}, not {self.bits}")
        if self.samples_cap < 0:
            raise ConfigError(f"samples_cap must not be negative, it is {self.samples_cap}")
        self._check_staleness()
        self._check_range()
        self._check_privacy()
        if self.scheme == LIGHTSECAGG and self.share_bytes > MAX_SHARE_BYTES:
            raise ConfigError(
                f"a share of {self.share_bytes} bytes does not fit into a message: use seedmask,"
                " a smaller support, or a larger cohort"
            )

    def _check_cohort(self) -> None:
        num_devices, malicious = self.num_devices, self.num_malicious
        noise, answers = self.num_noise, self.num_answers
        if not MIN_COHORT <= num_devices <= MAX_COHORT:
            raise ConfigError(
                f"a cohort has {MIN_COHORT} to {MAX_COHORT} devices, not {num_devices}"
            )
        if malicious < 0:
            raise ConfigError(f"malicious (t) must not be negative, it is {malicious}")
        if 2 * (noise + 1) <= num_devices + malicious:
            raise ConfigError(
                f"noise (T) = {noise} lets two halves of the cohort answer for different sums: with"
                f" N = {num_devices} and t = {malicious} it must be at least"
                f" {(num_devices + malicious) // 2}"
            )
        if not noise < answers <= num_devices:
            raise ConfigError(
                f"answers (U) = {answers} must be above noise (T) = {noise} and at most"
                f" N = {num_devices}"
            )

    def _check_contributors(self) -> None:
        fewest, most = self.min_contributors, self.max_contributors
        if fewest < self.num_malicious + 2:
            raise ConfigError(
                f"min_contributors = {fewest}: with t = {self.num_malicious} malicious devices a"
                f" sum of fewer than {self.num_malicious + 2} shows one device's update"
            )
        if not fewest <= most <= self.num_devices:
            raise ConfigError(
                f"a buffer's goal must be from min_contributors = {fewest} to the cohort's"
                f" {self.num_devices} devices, not {most}: set task.buffered.goal (in rounds:"
                " task.rounds.size)"
            )
        highest = 1 if self.scheme == PAIRWISE else MAX_WEIGHT
        if not 1 <= self.max_weight <= highest:
            raise ConfigError(f"max_weight must be 1 to {highest}, not {self.max_weight}")

    def _check_group(self) -> None:
        if self.group == 0:
            return
        if self.scheme == PAIRWISE:
            raise ConfigError("group: masks of pairwise cancel among all of a round: use seedmask")
        if self.group < self.min_contributors:
            raise ConfigError(
                f"group = {self.group}: each group's sum is shown, and no sum may have fewer than"
                f" min_contributors = {self.min_contributors} devices"
            )
        if self.max_contributors < MIN_GROUPS * self.group:
            raise ConfigError(
                f"group = {self.group}: a buffer of {self.max_contributors} updates has fewer than"
                f" {MIN_GROUPS} groups: raise the goal to {MIN_GROUPS * self.group}"
            )

    def _check_staleness(self) -> None:
        parse_staleness(self.staleness)
        if self.scheme == PAIRWISE and self.staleness != CONSTANT:
            raise ConfigError(
                f"staleness {self.staleness!r}: in rounds, as pairwise needs them, nobody is late:"
                " use constant"
            )

    def _check_privacy(self) -> None:
        if not self.is_private:
            return
        if self.multiplier_milli < 0 or self.budget_nano < self.cost_nano:
            raise ConfigError(
                f"budget_nano = {self.budget_nano} does not pay for one update, which costs"
                f" {self.cost_nano}: raise privacy.epsilon"
            )
        if self.samples_cap:
            raise ConfigError(
                "samples_cap: the number of samples would show in an update's weight, where no"
                " noise hides it: set weigh_by_samples = false"
            )
        if self.grid.bound**2 < self.size:
            raise ConfigError(
                f"an update of {self.size} values would be {self.grid.bound} steps long, too few to"
                " tell one from another: allow a larger epsilon, raise min_contributors, or use"
                " seedmask"
            )

    def _check_range(self) -> None:
        mend = "raise bits, or lower the goal" if self.scheme == SEEDMASK else "lower the goal"
        if self.limit < 1 or self.levels < 1:
            raise ConfigError(
                f"a sum of {self.max_contributors} updates of weight {self.max_weight} could"
                f" overflow, or its count drown in noise: {mend}"
            )
        if self.samples_cap and self.levels < MIN_LEVELS:
            raise ConfigError(
                f"a number of samples would be one of {self.levels} levels, fewer than"
                f" {MIN_LEVELS}: {mend}, or set weigh_by_samples = false"
            )
        if self.staleness != CONSTANT and self.levels < MAX_WEIGHT:
            raise ConfigError(
                f"a weight for staleness would be one of {self.levels} levels, fewer than"
                f" {MAX_WEIGHT}: {mend}, or leave staleness.rule out"
            )

    @property
    def fewest_updates(self) -> int:
        """How many updates a buffer is closed with at least."""
        return max(self.min_contributors, MIN_GROUPS * self.group)

    @property
    def share_bytes(self) -> int:
        """How large a holder's share of one mask is in `lightsecagg`, two bytes an element."""
        num_columns = -(-self.size // (self.num_answers - self.num_noise))
        return 2 * (num_columns + TEST_COLUMNS)

    @property
    def modulus(self) -> int:
        """Sums are taken modulo this; a prime, but 2**32 in `pairwise`."""
        return _RINGS[self.scheme][0]

    @property
    def width(self) -> int:
        """How many bits an element has on the wire."""
        return self.bits if self.scheme == SEEDMASK else (self.modulus - 1).bit_length()

    @property
    def body_bytes(self) -> int:
        """How long the body of an update is."""
        return fixedpoint.num_bytes(self.size, self.width)

    @property
    def shift(self) -> int:
        """How many low bits of an element stay on the device: r of `seedmask`, else 0."""
        return _RING_BITS - self.bits if self.scheme == SEEDMASK else 0

    @property
    def noise(self) -> int:
        """By how much one update may differ, in size, once it is unmasked: error and rounding."""
        return MAX_ERROR + (1 << self.shift - 1) if self.scheme == SEEDMASK else 0

    @property
    def limit(self) -> int:
        """X: the largest size of an element in one update.

        The largest for which no sum of K updates of weight W, noise included, is too large.
        """
        most = self.max_contributors * self.max_weight
        return _RINGS[self.scheme][1] // most - self.noise

    @property
    def scale(self) -> float:
        """How many integers are a difference of 1.0 in a value."""
        if self.is_private:
            return self.grid.unit * self.grid.bound / self.clip
        return self.limit / self.clip

    @property
    def is_private(self) -> bool:
        """Whether devices add noise beneath their masks."""
        return self.multiplier_milli != 0

    @property
    def num_noisy(self) -> int:
        """How many honest devices there are in any sum that is learned."""
        return max(self.min_contributors, self.group) - self.num_malicious

    @property
    def grid(self) -> NoiseGrid:
        """In which steps values and noise are counted, if it is private. Raises ConfigError."""
        return noise_grid(self.limit, self.num_noisy, self.multiplier_milli)

    @property
    def cost_nano(self) -> int:
        """What an update costs its device; 0 if there is no noise."""
        return cost_nano(self.multiplier_milli) if self.is_private else 0

    @property
    def step(self) -> int:
        """One level of the count, as an element."""
        return 2 * self.max_contributors * self.max_weight * self.noise + 1

    @property
    def levels(self) -> int:
        """How many levels of the count there are; the highest is the weight 1."""
        return self.limit // self.step

    def level(self, num_samples: int, staleness: int = 0) -> int:
        """The level, 1 to ``levels``, of an update from so many samples, so many versions late.

        Rounded up for the samples, then to the nearest for the staleness.
        """
        level = self.levels
        if self.samples_cap:
            counted = max(1, min(num_samples, self.samples_cap))
            level = -(-counted * self.levels // self.samples_cap)
        weight = parse_staleness(self.staleness)(staleness)
        return max(1, round(level * max(weight, MIN_STALENESS_WEIGHT)))

    def encode(
        self, values: fixedpoint.Values, num_samples: int, staleness: int = 0
    ) -> tuple[Elements, int]:
        """The elements (size,) to be masked, and how many values were beyond ``clip`` and cut.

        ``staleness`` is how many versions there were since the one that was trained from. If it is
        private, what is beyond ``clip`` in L2 norm is cut, but not told, and `noisy` must follow.
        Raises LocalProtocolError for values that are not finite.
        """
        level = self.level(num_samples, staleness)
        part = level / self.levels
        if self.is_private:
            return np.append(self._bounded(values, part), level * self.step), 0
        highest = -(-self.limit * level // self.levels)
        integers, num_saturated = fixedpoint.quantise(values, self.scale * part, highest)
        return np.append(integers, level * self.step), num_saturated

    def _bounded(self, values: fixedpoint.Values, part: float) -> Elements:
        exact = values.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        if not isfinite(norm):
            raise LocalProtocolError("a value to be bounded is not finite")
        grid = self.grid
        exact *= part * grid.bound / max(norm, self.clip)
        return grid.unit * on_grid(exact, grid.bound)

    def noisy(self, elements: Elements, seed: bytes) -> Elements:
        """Return what `encode` made with this device's noise on the values, if it is private.

        ``seed``: 32 secret bytes for nothing else. The count has no noise: who takes part is known.
        """
        if not self.is_private:
            return elements
        return np.append(self.grid.noisy(elements[:-1], seed, self.limit), elements[-1])

    def check_values(self, values: Elements) -> None:
        """Raise LocalProtocolError unless these are ``size`` elements within +-``limit``."""
        if values.shape != (self.size,):
            raise LocalProtocolError(f"{values.shape} values, not {self.size}")
        if values.max() > self.limit or values.min() < -self.limit:
            raise LocalProtocolError(f"values beyond {self.limit}")

    def weight_of(self, count: int) -> float:
        """The updates' total weight from the sum of their counts; one of full level weighs 1.

        The weighted mean is the sum of the values over ``scale`` and this.
        """
        return self._level_of(count) / self.levels

    def check_sums(self, sums: Elements, num_updates: int) -> None:
        """Raise RecoveryError for sums (size,) that no ``num_updates`` right updates can have.

        An update of integer weight w counts as w of them.
        """
        bound = num_updates * (self.limit + self.noise)
        total = self._level_of(int(sums[-1]))
        in_range = -bound <= sums.min() and sums.max() <= bound
        if not (in_range and num_updates <= total <= num_updates * self.levels):
            raise RecoveryError(f"not a sum of {num_updates} updates")

    def _level_of(self, count: int) -> int:
        return (count + self.step // 2) // self.step


def defaults(num_devices: int) -> tuple[int, int, int]:
    """The default (t, T, U) of a cohort: a tenth malicious, a quarter absent.

    In the smallest cohorts (N = 3, 4 and 5) T leaves no room below N: all must answer.
    """
    malicious = max(1, num_devices // 10)
    noise = (num_devices + malicious) // 2
    answers = max(noise + 2, -(-3 * num_devices // 4))
    return malicious, noise, min(answers, num_devices)
