"""How numbers are written, once for the page and the terminal. Whatever is not a finite number is `MISSING`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "—"
_POWERS = (
    (1e24, "Y"),
    (1e21, "Z"),
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
)


def as_number(value: Any) -> float | None:
    """The value if it is a finite number (a bool is not), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def format_percent(value: Any, digits: int = 1) -> str:
    number = as_number(value)
    return MISSING if number is None else f"{100 * number:.{digits}f}%"


def format_interval(low: Any, high: Any, *, is_frac: bool = True) -> str:
    """Both ends, in percent points for fractions: `[91.2, 94.6]`."""
    ends = (as_number(low), as_number(high))
    if ends[0] is None or ends[1] is None:
        return MISSING
    low, high = (round((100 if is_frac else 1) * end, 1) + 0.0 for end in ends if end is not None)
    return f"[{low:.1f}, {high:.1f}]".replace("-", "−")


def format_estimate(row: Mapping[str, Any] | None) -> str:
    """The fraction of a result row with its interval: `93.1% [91.2, 94.6]`."""
    if row is None:
        return MISSING
    return f"{format_percent(row.get('value'))} {format_interval(row.get('low'), row.get('high'))}"


def format_range(values: Sequence[float]) -> str:
    """The smallest and largest of some fractions, in percent: `95.1–97.4%`."""
    return f"{100 * min(values):.1f}–{100 * max(values):.1f}%" if values else MISSING


def format_points(value: Any) -> str:
    """A signed difference of fractions, in percent points."""
    number = as_number(value)
    return MISSING if number is None else f"{100 * number:+.1f}".replace("-", "−")


def format_p(value: Any) -> str:
    """A p-value to two digits: `p = 0.031`, `p = 4.1e-12`, `p < 1e-300`."""
    number = as_number(value)
    if number is None:
        return MISSING
    if number < 1e-300:
        return "p < 1e-300"
    return f"p = {number:.2g}" if number < 0.995 else "p = 1"


def format_count(value: Any) -> str:
    """A whole number with thousands separators."""
    number = as_number(value)
    return MISSING if number is None else f"{number:,.0f}"


def format_amount(value: Any, unit: str = "") -> str:
    """Three figures and a decimal prefix: `4.21M`, `3.10 PFLOP`."""
    number = as_number(value)
    if number is None:
        return MISSING
    for power, prefix in _POWERS:
        if abs(number) >= power:
            return f"{number / power:.3g}{' ' * bool(unit)}{prefix}{unit}"
    return f"{number:.3g}{' ' * bool(unit)}{unit}"


def format_tick(value: float) -> str:
    """A round value in few characters: `0.002`, `2e-4`, `1.5e-4`."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def format_duration(seconds: Any) -> str:
    """`0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    number = as_number(seconds)
    if number is None:
        return MISSING
    if number < 10:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"
