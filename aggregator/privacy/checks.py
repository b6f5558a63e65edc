"""What a task with differential privacy cannot have beside it, and why."""

from typing import TYPE_CHECKING

from aggregator.privacy.config import CENTRAL
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from aggregator.task_config import TaskConfig


def check_privacy(task: "TaskConfig", *, masked: bool) -> None:
    """Refuse what would make the promise of ``[privacy]`` untrue. Raises ConfigError."""
    privacy = task.privacy
    if not privacy.enabled:
        return
    _check_place(task, masked=masked)
    if task.weigh_by_samples:
        raise ConfigError(
            "privacy: how many samples a device has would show in its update's weight, where no"
            " noise hides it: set task.weigh_by_samples = false"
        )
    strategy = task.settled(masked=masked).strategy
    kind = strategy.strategy()
    if kind.caches or kind.calibrated or kind.strata:
        raise ConfigError(
            f'privacy: strategy.name = "{strategy.name}" uses single updates beside their noisy'
            ' sum: use "fedbuff", "fedavg", or one of the adaptive ones'
        )
    if task.fairness.weighs:
        raise ConfigError(
            f'privacy: by fairness.weights = "{task.fairness.weights}" an update may weigh more'
            " than 1, and the noise hides no more than that: leave fairness.weights alone"
        )


def _check_place(task: "TaskConfig", *, masked: bool) -> None:
    """Where the noise is added must be where single updates are."""
    if not masked and task.privacy.is_distributed:
        raise ConfigError(
            'privacy.mechanism = "distributed": each device adds too little noise for its own'
            ' update, so these must be masked: set [secure] scheme, or mechanism = "central"'
        )
    if not task.privacy.is_central:
        return
    if masked:
        raise ConfigError(
            f'privacy.mechanism = "{CENTRAL}": the aggregator cannot bound updates that are masked:'
            ' set mechanism = "distributed"'
        )
    if task.settled(masked=False).robust.sees_rows:
        raise ConfigError(
            f'privacy: robust.rule = "{task.robust.rule}" lets one device move the result further'
            ' than the noise hides: set robust.rule = "mean"; the clip bounds what one can do'
        )
    if task.selection.sees_norms:
        raise ConfigError(
            "privacy: selection.oort would choose devices by the norms of their updates, which"
            ' shows them: set selection.oort.utility = "samples"'
        )
