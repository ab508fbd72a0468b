"""Amounts as people read them, each in one way wherever it is shown: seconds, money, bytes, shares."""

from __future__ import annotations

import math
from numbers import Real

_MOST_DECIMALS = 6  # of money


def show_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`; what rounds to nothing is `under a second`."""
    return show_span(seconds, seconds)


def show_span(low: float, high: float) -> str:
    """`20 to 45 s`, `12 to 18 min`, `3.5 to 5.0 h`; `12 min` where both ends are the same; `up to 3 s`."""
    if 0 < high < 0.5:
        return "under a second"
    if low < 0.5 <= high < 90:
        return f"up to {high:.0f} s"
    unit, seconds, digits = ("s", 1, 0) if high < 90 else ("min", 60, 0) if high < 5400 else ("h", 3600, 1)
    ends = [f"{end / seconds:.{digits}f}" for end in (low, high)]
    return f"{' to '.join(dict.fromkeys(ends))} {unit}"


def show_seconds(seconds: float) -> str:
    """Seconds for a column of them, without the unit: trials compare to the tenth."""
    return f"{seconds:.1f}"


def show_money(amount: float) -> str:
    """An amount in whatever currency the user counts in; less than a hundredth is not rounded to nothing."""
    if 0 < amount < 0.01:
        return f"{amount:.{min(math.ceil(-math.log10(amount)), _MOST_DECIMALS)}f}"
    return f"{amount:.2f}" if amount < 100 else f"{amount:,.0f}"


def show_rough(value: object, towards: int = 0) -> str:
    """A value of a range as one would write it: `1.3e-3`, `0.05`, `16`; four digits where these are all, else
    two, rounded up where `towards` is 1 and down where it is -1. What is no finite number stays as it is."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    number = value if isinstance(value, int) else float(value)
    if isinstance(number, int) or float(f"{number:.3e}") == number:
        digits, rounded = 4, float(number)
        if abs(number) >= 1:
            return f"{number:,.10g}".replace(",", "")
    else:
        digits, size = 2, 10.0 ** (math.floor(math.log10(abs(number))) - 1)
        rounded = (math.ceil, round, math.floor)[1 - towards](number / size) * size
    mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
    if -3 < int(exponent) < 6:
        return f"{float(f'{mantissa}e{exponent}'):.10g}"
    return f"{float(mantissa):g}e{int(exponent)}"


def show_count(count: float) -> str:
    """A number of parameters: 268M, 7B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def show_bytes(amount: float) -> str:
    """Memory and room on disks: `0.60 GiB`, `79.2 GiB`."""
    gigabytes = amount / 2**30
    return f"{gigabytes:.2f} GiB" if gigabytes < 10 else f"{gigabytes:.1f} GiB"


def show_share(share: float) -> str:
    """A share from 0 to 1 in per cent; one that is not nothing, or not all, is not rounded to it."""
    if 0 < share < 0.01:
        return "below 1 %"
    return "above 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
