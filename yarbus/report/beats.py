"""On how many tasks a variant lies above its reference, and on how many of them clearly."""

from collections.abc import Sequence
from dataclasses import dataclass

from yarbus.report.cells import MEAN
from yarbus.report.contrasts import Contrast


@dataclass(frozen=True, kw_only=True)
class Beats:
    """Tasks counted by the sign of the difference; *clear* is an interval that leaves 0 out."""

    num_tasks: int
    above: int
    clearly_above: int
    below: int
    clearly_below: int

    @property
    def words(self) -> list[str]:
        """``2 of 4``, ``1 clear``, and where there are any ``1 clearly below``."""
        below = [f"{self.clearly_below} clearly below"] if self.clearly_below else []
        return [f"{self.above} of {self.num_tasks}", f"{self.clearly_above} clear", *below]


def beats_of(contrasts: Sequence[Contrast], reference: str, variant: str) -> Beats | None:
    """The count over all tasks that both have answered; None where they share none."""
    found = [
        one.difference for one in contrasts if (one.reference, one.variant) == (reference, variant) and one.task != MEAN
    ]
    if not found:
        return None
    return Beats(
        num_tasks=len(found),
        above=sum(one.mean > 0 for one in found),
        clearly_above=sum(one.low > 0 for one in found),
        below=sum(one.mean < 0 for one in found),
        clearly_below=sum(one.high < 0 for one in found),
    )
