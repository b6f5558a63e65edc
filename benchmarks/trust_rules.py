"""``trust``, rules: the robust rules that one may choose, under the attacks of `trust_robust`.

``digits``: each rule but the default and the mean, which `benchmarks.trust_robust` has, without
attack and under every attack; a fifth of attackers is what they are told to expect. Median and
trimmed mean get dense updates, as docs/configuration.md says.
``fltrust``: in the other set-ups that have a root set. As there in everything else.
``operator``: the default and the mean among people, tested on as many as FLTrust.
"""

from typing import Final

from aggregator.robust.config import AUTO, DEFAULT, FLTRUST, MEAN, RULES
from benchmarks.report import Report
from benchmarks.trust_robust import ATTACKS, BOTH, FLIP, NO_ATTACK, SEEDS, SPAN_S, ran, told
from benchmarks.trust_setups import has_people

OTHERS: Final = tuple(rule for rule in RULES if rule not in {AUTO, DEFAULT, MEAN})
UNTOUCHED: Final = "none"


def measure(*, quick: bool) -> Report:
    """Run all. Quick: one seed, a tenth of the time, and sign flips only."""
    seeds = range(1 if quick else SEEDS)
    attacks = (NO_ATTACK, FLIP) if quick else (NO_ATTACK, *ATTACKS)
    elsewhere = [
        *(("operator", attack) for attack in (NO_ATTACK, FLIP) if has_people()),
        *(("skewed", attack) for attack in (NO_ATTACK, FLIP)),
        ("paces", NO_ATTACK),
    ]
    rows = [("digits", attack, rule) for rule in OTHERS for attack in attacks]
    rows += [(setup, attack, FLTRUST) for setup, attack in elsewhere]
    compared = [(attack, rule) for attack in (NO_ATTACK, FLIP) for rule in BOTH if has_people()]
    rows += [("operator", *row) for row in compared]
    found = ran(rows, seeds, SPAN_S / 10 if quick else SPAN_S)
    return {
        "seeds": len(seeds),
        "digits": {
            rule: {attack or UNTOUCHED: told(found["digits", attack, rule]) for attack in attacks}
            for rule in OTHERS
        },
        "fltrust": {
            f"{setup} {attack or UNTOUCHED}": told(found[setup, attack, FLTRUST])
            for setup, attack in elsewhere
        },
        "operator": {
            f"{rule} {attack or UNTOUCHED}": told(found["operator", attack, rule])
            for attack, rule in compared
        },
    }
