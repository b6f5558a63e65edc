"""How staleness weighs an update: the rule, its name, and the papers' functions.

Polynomial and hinge after C. Xie, S. Koyejo, I. Gupta, "Asynchronous Federated Optimization",
2019, section 5; the exponent 0.5 is FedBuff's (J. Nguyen et al., "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022). A fresh update (staleness 0) always weighs 1.

The aggregator weighs plain updates; a masked one its device weighs, by the rule that the roster
names: ``constant``, ``polynomial-EXPONENT`` or ``hinge-SLOPE-GRACE``.
"""

from collections.abc import Callable
from typing import Final

from protocol.errors import ConfigError

StalenessWeight = Callable[[int], float]

CONSTANT: Final = "constant"


def parse_staleness(name: str) -> StalenessWeight:
    """Return the function of a rule by its name. Raises ConfigError for a name of no rule."""
    match name.split("-"):
        case ["constant"]:
            return constant
        case ["polynomial", exponent]:
            return polynomial(_number(name, exponent))
        case ["hinge", slope, grace]:
            return hinge(_number(name, slope), int(_number(name, grace)))
    raise ConfigError(f"staleness {name!r}: use constant, polynomial-EXPONENT or hinge-SLOPE-GRACE")


def constant(_staleness: int) -> float:
    """Ignore staleness."""
    return 1.0


def polynomial(exponent: float) -> StalenessWeight:
    """Weight ``(1 + staleness) ** -exponent``, with ``exponent`` >= 0."""
    if exponent < 0:
        raise ConfigError(f"staleness.exponent must be 0 or more, not {exponent}")
    return lambda staleness: float((1.0 + staleness) ** -exponent)


def hinge(slope: float, grace: int) -> StalenessWeight:
    """Weight 1 up to ``grace`` versions, then ``1 / (1 + slope * (staleness - grace))``.

    The paper's ``1 / (slope * (staleness - grace))`` exceeds 1 for slope below 1; the added 1 keeps
    the weight falling and never above that of a fresh update.
    """
    if slope <= 0 or grace < 0:
        raise ConfigError(f"staleness.slope must be above 0 and grace not below: {slope}, {grace}")
    return lambda staleness: (
        1.0 if staleness <= grace else 1.0 / (1.0 + slope * (staleness - grace))
    )


def _number(name: str, text: str) -> float:
    # Plain digits only: float() also takes "nan", "1_0" and signs.
    if not text.replace(".", "", 1).isdecimal() or not text.isascii():
        raise ConfigError(f"staleness {name!r}: {text!r} is no number")
    return float(text)
