"""Numbers of a record, which may be missing, and how they are written.

JSON knows no NaN and no infinity, but what Python wrote may hold them: they count as missing, like null.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % interval, None where no interval can be made."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the mean twice where there is none."""
        return (self.mean if self.low is None else self.low, self.mean if self.high is None else self.high)

    def is_below(self, level: int | float) -> bool:
        """The whole interval lies below; never without an interval."""
        return self.high is not None and self.high < level

    def is_above(self, level: int | float) -> bool:
        """The whole interval lies above; never without an interval."""
        return self.low is not None and self.low > level

    def is_clear_of(self, level: int | float) -> bool:
        """The interval leaves the level out."""
        return self.is_below(level) or self.is_above(level)


def number(value: object) -> float | None:
    """A finite number of a record, or None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def estimate(value: object) -> Estimate | None:
    """``{"mean", "low", "high"}`` or a plain number of a record; None where nothing was measured."""
    if not isinstance(value, dict):
        plain = number(value)
        return None if plain is None else Estimate(plain)
    mean = number(value.get("mean"))
    return None if mean is None else Estimate(mean, number(value.get("low")), number(value.get("high")))


def scaled(value: Estimate, factor: int | float) -> Estimate:
    """The estimate in another unit."""
    low, high = (None if end is None else factor * end for end in (value.low, value.high))
    return Estimate(factor * value.mean, low, high)


def over_seeds(values: Sequence[Estimate | None]) -> Estimate | None:
    """The mean over training seeds of what is there, of means and of ends.

    Averaged ends cover what each interval covers (the choice of questions or batches), not the luck of a seed.
    """
    found = [value for value in values if value is not None]
    if not found:
        return None

    def mean(parts: list[float | None]) -> float | None:
        known = [part for part in parts if part is not None]
        return sum(known) / len(known) if len(known) == len(found) else None

    return Estimate(
        sum(value.mean for value in found) / len(found),
        mean([value.low for value in found]),
        mean([value.high for value in found]),
    )


def decimal(value: int | float, digits: int = 2, sign: bool = False) -> str:
    """``-0.312`` as ``−0.31``, with a real minus sign and no signed zero."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else f"{0:.{digits}f}"


def percent(fraction: int | float, sign: bool = False) -> str:
    """``0.7125`` as ``71.2``: the only place where fractions become percent."""
    return decimal(100 * fraction, 1, sign)


def rounded(value: int | float) -> str:
    """A whole number as it is, for a count stays a count; else two decimals, three below a tenth."""
    return decimal(value, 0 if float(value).is_integer() else 2 if abs(value) >= 0.1 else 3)


def interval(value: Estimate, digits: int = 2, sign: bool = False) -> str:
    """``0.12 to 0.20``; empty where there is no interval."""
    if value.low is None or value.high is None:
        return ""
    return f"{decimal(value.low, digits, sign)} to {decimal(value.high, digits, sign)}"


def words(value: Estimate, digits: int = 2, sign: bool = False) -> str:
    """``0.16 (0.12 to 0.20)``."""
    ends = interval(value, digits, sign)
    return decimal(value.mean, digits, sign) + (f" ({ends})" if ends else "")


def several(count: int, noun: str) -> str:
    """``1 block``, ``3 blocks``, ``no block``."""
    return f"{count or 'no'} {noun}{'' if count < 2 else 's'}"


def first_of(seeds: Sequence[object]) -> str:
    """Says that a picture shows the first of several seeds; empty where there is one."""
    return f"Drawn from the first of {len(seeds)} seeds. " if len(seeds) > 1 else ""


def listed(names: Sequence[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def ranges(blocks: list[int]) -> str:
    """``0 to 2, 5`` for blocks 0, 1, 2 and 5."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
