"""Numbers and names as people read them."""

from typing import Final

_KILO: Final = 1000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
#: From how many seconds on a unit is used, seconds in it, its name.
_SPANS: Final = ((3 * 86_400.0, 86_400.0, "days"), (7_200.0, 3_600.0, "h"), (900.0, 60.0, "min"))
_MAX_NAME: Final = 40


def size(num_bytes: float) -> str:
    """Return a size with three digits or so: 812 B, 1.48 kB, 12.9 MB."""
    rest, units = float(num_bytes), list(_UNITS)
    while abs(round(rest)) >= _KILO and len(units) > 1:
        rest /= _KILO
        units.pop(0)
    return f"{rest:.0f} B" if units[0] == "B" else f"{rest:.3g} {units[0]}"


def duration(seconds: float) -> str:
    """Return a span of time in the unit that suits it: 0.8 s, 300 s, 25 min, 36.5 h."""
    divisor, unit = time_unit(abs(seconds))
    rest = seconds / divisor
    return f"{rest:.3g} {unit}" if abs(rest) < _KILO else f"{rest:,.0f} {unit}"


def time_unit(span_s: float) -> tuple[float, str]:
    """Return the unit for a span (seconds in it, its name)."""
    for least, divisor, unit in _SPANS:
        if span_s >= least:
            return divisor, unit
    return 1.0, "s"


def ratio(value: float) -> str:
    """Return an accuracy or an index: three digits."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """Return a share of 1 in per cent."""
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"  # noqa: PLR2004 - one digit more below


def whole(value: float) -> str:
    """Return a count with its thousands apart; a mean of counts with a digit more."""
    return f"{value:,.0f}" if value == round(value) or value >= _KILO else f"{value:,.1f}"


def short(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.3g}" if abs(value) < _KILO else f"{value:,.0f}"


def shown(name: str) -> str:
    """Return a name from outside, fit for a label: printable, not endless."""
    clean = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    return clean if len(clean) <= _MAX_NAME else clean[: _MAX_NAME - 1] + "…"


def class_label(name: str, *, is_slow: bool) -> str:
    """Return a device class's name, and that it is slow if that is not in it."""
    label = shown(name)
    return f"{label} (slow)" if is_slow and "slow" not in label else label


def listed(words: list[str]) -> str:
    """Return words as a sentence has them: a, b and c."""
    if len(words) < 2:  # noqa: PLR2004 - one word needs no and
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
