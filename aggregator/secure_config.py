"""What an operator sets about secure aggregation, and what is refused because of it.

A setting that would break an invariant of docs/threat-model.md is refused when the configuration
is read, with the reason and what to change.
"""

from dataclasses import dataclass, field

from aggregator.gate import Trust
from aggregator.privacy.checks import check_privacy
from aggregator.robust.groups import check_groups
from aggregator.scheduling.rounds import Rounds
from aggregator.supports import check_support
from aggregator.task_config import TaskConfig
from protocol.errors import ConfigError
from protocol.messages import KEY_BYTES
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import (
    MIN_GROUPS,
    MIN_STALENESS_WEIGHT,
    PAIRWISE,
    Parameters,
    defaults,
)
from protocol.staleness import parse_staleness
from protocol.vectors.packing import DENSE, CodecSpec, parse_codec

NONE = "none"
SCHEMES = ("seedmask", "lightsecagg", PAIRWISE, NONE)
_RANGES: dict[str, tuple[float, float]] = {
    "support_every": (1, 1_000_000),
    "clip": (1e-6, 1e6),
    "bits": (8, 24),
    "malicious": (-1, 128),
    "noise": (-1, 128),
    "answers": (-1, 128),
    "min_contributors": (0, 128),
    "samples_cap": (1, 1 << 40),
    "epoch_s": (10, 1 << 31),
    "spare_wait_s": (0.0, 3600.0),
}


class RosterMismatchError(ConfigError):
    """A roster was signed for other settings: the text has each, in the roster and in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureConfig:
    """The table ``[secure]``. -1 and 0 mean the default that the cohort's size gives.

    ``scheme`` must be said: `check` refuses the empty one.

    ``support`` is ``dense``, ``randk-F`` or ``plan-F``; ``malicious``, ``noise`` and ``answers``
    are t, T and U. ``rosters`` is the folder that `fedbus enrol` fills.
    """

    scheme: str = ""
    support: str = DENSE
    support_every: int = 1
    clip: float = 1.0
    bits: int = 16
    malicious: int = -1
    noise: int = -1
    answers: int = -1
    min_contributors: int = 0
    samples_cap: int = 1000
    epoch_s: int = 86_400
    spare_wait_s: float = 2.0
    rosters: str = ""

    def __post_init__(self) -> None:
        if self.scheme and self.scheme not in SCHEMES:
            raise ConfigError(f"scheme {self.scheme!r}: use {', '.join(SCHEMES)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.enabled:
            _ = self.codec

    @property
    def enabled(self) -> bool:
        """Whether updates are masked."""
        return self.scheme not in ("", NONE)

    @property
    def codec(self) -> CodecSpec:
        """The codec that leases name. Raises ConfigError."""
        return parse_codec(f"{self.support}/{self.scheme}")

    def parameters(self, task: TaskConfig, num_devices: int, num_params: int) -> Parameters:
        """Return the parameters of a cohort's roster, checked. Raises ConfigError."""
        check_support(self.codec, num_params)
        malicious, noise, answers = defaults(num_devices)
        malicious = malicious if self.malicious < 0 else self.malicious
        noise = noise if self.noise < 0 else self.noise
        answers = answers if self.answers < 0 else self.answers
        privacy = task.privacy
        parameters = Parameters(
            scheme=self.scheme,
            num_devices=num_devices,
            num_malicious=malicious,
            num_noise=noise,
            num_answers=answers,
            min_contributors=self.min_contributors or malicious + 2,
            max_contributors=goal(task),
            size=self.codec.num_kept(num_params) + 1,
            clip=privacy.clip if privacy.is_distributed else self.clip,
            bits=self.bits,
            samples_cap=min(self.samples_cap, task.samples_cap) if task.weigh_by_samples else 0,
            staleness=task.staleness.masked,
            group=task.robust.group,
            multiplier_milli=privacy.multiplier_milli if privacy.is_distributed else 0,
            budget_nano=privacy.budget if privacy.is_distributed else 0,
        )
        parameters.check()
        if self.scheme == PAIRWISE and smallest_buffer(task) <= noise:
            raise ConfigError(
                f"a round could be closed with {smallest_buffer(task)} updates, and pairwise needs"
                f" the signatures of {noise + 1} devices (T + 1): raise rounds.quorum"
            )
        return parameters

    def check(self, task: TaskConfig) -> None:
        """Refuse what secure aggregation cannot keep with this task. Raises ConfigError."""
        if not self.scheme:
            raise ConfigError(
                'secure.scheme: say "seedmask", and enrol the devices with `fedbus enrol`; or say'
                ' "none" if the aggregator may see the update of every single device'
            )
        check_privacy(task, masked=self.enabled)
        if not self.enabled:
            if task.robust.group:
                raise ConfigError(
                    "robust.group: groups are for masked updates, and those of this task are seen"
                    " one by one: leave it out"
                )
            task.check_rows()
            return
        task = task.settled(masked=True)
        if why := task.strategy.strategy().unmaskable:
            raise ConfigError(
                f'strategy.name = "{task.strategy.name}" does not work with masked updates: {why}'
            )
        if task.fairness.weighs:
            raise ConfigError(
                f'fairness.weights = "{task.fairness.weights}" needs single updates, and masked'
                ' ones are summed first: use strategy.name = "calibrated", or max_share'
            )
        task.selection.check_masked(is_pairwise=self.scheme == PAIRWISE)
        if self.scheme == PAIRWISE and task.mode != "rounds":
            raise ConfigError(
                'secure.scheme = "pairwise" works in rounds only, since its masks cancel among'
                ' those who start together: set mode = "rounds", or use seedmask'
            )
        late = parse_staleness(task.staleness.masked)(task.staleness_limit)
        if late < MIN_STALENESS_WEIGHT:
            raise ConfigError(
                f"an update {task.staleness_limit} versions late would weigh {late:.3f}, and in a"
                f" secure task none weighs less than {MIN_STALENESS_WEIGHT}: lower max_staleness,"
                " or the exponent or slope in [task.staleness]"
            )
        if task.normalise == "goal" and task.weigh_by_samples:
            raise ConfigError('normalise = "goal" needs weigh_by_samples = false')
        least = self.min_contributors or 3
        if smallest_buffer(task) < least:
            raise ConfigError(
                f"a buffer of {smallest_buffer(task)} updates could be closed, and a sum over fewer"
                f" than {least} devices shows too much of one: raise " + _smallest_key(task)
            )
        self._check_robust(task)

    def _check_robust(self, task: TaskConfig) -> None:
        """Refuse a rule that has nothing to compare, or too many wrong groups to compare."""
        robust = task.robust
        if not robust.group:
            if robust.sees_rows:
                raise ConfigError(
                    f'robust.rule = "{robust.rule}" compares updates, and of masked ones only sums'
                    " are known: set robust.group, how many are summed together, or"
                    ' robust.rule = "mean"'
                )
            return
        if self.scheme == PAIRWISE:
            raise ConfigError(
                "robust.group: masks of pairwise cancel in the sum over all of a round: set"
                ' secure.scheme = "seedmask"'
            )
        if robust.group < (least := self.min_contributors or 3):
            raise ConfigError(
                f"robust.group = {robust.group}: the sum of each group is shown, and one over fewer"
                f" than {least} devices shows too much of one"
            )
        if smallest_buffer(task) < MIN_GROUPS * robust.group:
            raise ConfigError(
                f"robust.group = {robust.group}: a buffer of {smallest_buffer(task)} updates could"
                f" be closed, and fewer than {MIN_GROUPS} groups tell a rule nothing: raise"
                f" {_smallest_key(task)} to {MIN_GROUPS * robust.group}"
            )
        num_groups = smallest_buffer(task) // robust.group
        check_groups(robust, num_groups, task.trained().layout.size)

    def check_roster(self, task: TaskConfig, parameters: Parameters, num_params: int) -> None:
        """Raise RosterMismatchError if a roster was made for other settings than these."""
        wanted = self.parameters(task, parameters.num_devices, num_params)
        told = [
            f"{_said_by(name, task)} = {getattr(parameters, name)} in the roster,"
            f" {getattr(wanted, name)} by the settings"
            for name in Parameters.__slots__
            if getattr(wanted, name) != getattr(parameters, name)
        ]
        if told:
            raise RosterMismatchError("; ".join(told))
        if smallest_buffer(task) < parameters.fewest_updates:
            raise ConfigError(
                f"a buffer of {smallest_buffer(task)} updates could be closed, the roster asks for"
                f" {parameters.fewest_updates} devices"
            )


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the aggregator of a secure task holds: its own key, and the cohorts' rosters."""

    config: SecureConfig
    secret: bytes = field(repr=False)
    enrolment_key: bytes
    rosters: tuple[SignedRoster, ...] = ()

    @property
    def trust(self) -> Trust:
        """What it signs with in any case, whether devices must sign or not."""
        return Trust(self.secret, self.enrolment_key, required=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES or len(self.enrolment_key) != KEY_BYTES:
            raise ConfigError(f"identity: keys have {KEY_BYTES} bytes")


def goal(task: TaskConfig) -> int:
    """Return how many updates a buffer holds at most."""
    return task.scheduling.size if isinstance(task.scheduling, Rounds) else task.buffered.goal


def smallest_buffer(task: TaskConfig) -> int:
    """Return how many updates a buffer may be closed with."""
    if isinstance(task.scheduling, Rounds):
        return task.scheduling.needed
    return task.buffered.min_contributors


def _said_by(name: str, task: TaskConfig) -> str:
    """Return the setting, as it stands in the file, that a roster's parameter comes from."""
    goal_key = "task.rounds.size" if task.mode == "rounds" else "task.buffered.goal"
    if name == "clip" and task.privacy.is_distributed:
        return "privacy.clip"
    return {
        "num_malicious": "secure.malicious",
        "num_noise": "secure.noise",
        "num_answers": "secure.answers",
        "min_contributors": "secure.min_contributors",
        "max_contributors": goal_key,
        "size": "the model's values to mask (task.model, task.training.trainable, secure.support)",
        "samples_cap": "samples_cap (secure, task; 0: task.weigh_by_samples = false)",
        "staleness": "task.staleness",
        "group": "robust.group",
        "multiplier_milli": "privacy: noise, thousandths of the clip,",
        "budget_nano": "privacy: budget, billionths of rho,",
    }.get(name, f"secure.{name}")


def _smallest_key(task: TaskConfig) -> str:
    return "rounds.quorum" if task.mode == "rounds" else "buffered.min_contributors"
