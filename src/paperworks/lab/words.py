"""Numbers for people: rounded, and with a dash for what is missing."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from paperworks.lab.statistics import t_interval


def number(value: Any) -> str:
    """A value for people: four significant digits, a dash for what is missing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        large = abs(value) >= 10_000
        return f"{value:,.0f}" if large else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value)) or "none"
    return str(value)


def span(low: float | None, high: float | None) -> str:
    """An interval's bounds for people; None is infinite."""
    return f"{'-∞' if low is None else number(low)} to {'∞' if high is None else number(high)}"


def mean_and_half_width(values: ArrayLike, form: str = "{:.3f}") -> str:
    """ "mean ± half", half the width of the 95 % t interval; of one value, the value alone."""
    interval = t_interval(values)
    half = "" if interval.count < 2 else f" ± {form.format(interval.high - interval.estimate)}"
    return form.format(interval.estimate) + half


def p_words(p: float | None) -> str:
    """A p-value for people."""
    if p is None:
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"
