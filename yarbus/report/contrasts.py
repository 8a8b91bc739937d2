"""Variant minus reference, paired by question and seed: on each task and on the mean, with what chance could do.

A claim among many is held against all of them: p values are corrected (Holm) over the variants that are compared with
one reference on the mean, and over variants times tasks where tasks are looked at one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from yarbus.report.answers import Answers, groups_of, is_right, over_seeds
from yarbus.report.cells import MEAN
from yarbus.report.intervals import Difference, holm, paired_bootstrap

NUMBERS = ["difference", "low", "high", "p", "p_holm"]
REFERENCES = ("frozen", "full")
"""Variants that the others are compared with, if they take part."""
LEVEL = 0.05
MOST_DRAWS, LEAST_DRAWS = 10_000, 2_000
BUDGET = 50_000_000
"""Draws times groups: of more groups fewer draws are taken."""


@dataclass(frozen=True)
class Contrast:
    """Variant minus reference on one task or the mean: paired by question and seed, drawn by scene."""

    task: str
    reference: str
    variant: str
    difference: Difference
    p_holm: float | None = None
    """The difference's p, corrected for its family; None in records older than it."""

    @property
    def is_sure(self) -> bool:
        """Clear of 0, and still so when all of its family are counted; a record without p knows the former alone."""
        return not self.difference.includes_zero and (self.p_holm is None or self.p_holm < LEVEL)

    @property
    def numbers(self) -> list[float | None]:
        """For a file of numbers: ``NUMBERS`` says which."""
        d = self.difference
        return [d.mean, d.low, d.high, d.p, self.p_holm]


def references_of(variants: Sequence[str]) -> list[str]:
    """``frozen`` and ``full``, or the first that begins so (``frozen+lora``); without either the first variant."""
    found = [next((name for name in variants if name.split("+")[0] == word), None) for word in REFERENCES]
    return [name for name in found if name is not None] or list(variants[:1])


def _draws(groups: Sequence[str]) -> int:
    return max(LEAST_DRAWS, min(MOST_DRAWS, BUDGET // max(1, len(set(groups)))))


def difference(a: Answers, b: Answers, tasks: Sequence[str]) -> Difference | None:
    """a - b over the questions both answered; None without any. Variants without a common seed pair by question."""
    a, b = ({key: row for key, row in some.items() if key[0] in tasks} for some in (a, b))
    keys = [key for key in a if key in b]
    if keys:
        groups = groups_of(keys, a)
        return paired_bootstrap(
            [is_right(a[key]) for key in keys],
            [is_right(b[key]) for key in keys],
            groups,
            draws=_draws(groups),
            seeds=[key[1] for key in keys],
            tasks=[key[0] for key in keys],
        )
    of_a, of_b = over_seeds(a), over_seeds(b)
    keys = [key for key in a if (key[0], key[2]) in of_b]
    if not keys:
        return None
    keys = list({(task, sample): (task, seed, sample) for task, seed, sample in keys}.values())
    groups = groups_of(keys, a)
    return paired_bootstrap(
        [of_a[task, sample] for task, _, sample in keys],
        [of_b[task, sample] for task, _, sample in keys],
        groups,
        draws=_draws(groups),
        tasks=[key[0] for key in keys],
    )


def corrected(family: Sequence[Contrast]) -> list[Contrast]:
    """The same with ``p_holm``: all of them count as one family (Holm)."""
    values = holm([1.0 if one.difference.p is None else one.difference.p for one in family])
    return [replace(one, p_holm=value) for one, value in zip(family, values, strict=True)]


def lead_of(answers: Mapping[str, Answers], leader: str, tasks: Sequence[str]) -> list[Contrast]:
    """The leader against every other variant, corrected for all of them: it was chosen after looking at all."""
    gaps = ((name, difference(answers[leader], some, tasks)) for name, some in answers.items() if name != leader)
    return corrected([Contrast(MEAN, name, leader, gap) for name, gap in gaps if gap is not None])


def contrasts_of(answers: Mapping[str, Answers], tasks: Sequence[str]) -> list[Contrast]:
    """Every variant against every reference, task by task and then, where there are several, on their mean."""
    references, found = references_of(list(answers)), dict[tuple[str, str, str], Contrast]()
    places = {task: [task] for task in tasks} | ({MEAN: list(tasks)} if len(tasks) > 1 else {})
    for place, some in places.items():  # outermost, since all differences on one task take the same draws
        for reference in references:
            for variant in answers:
                if variant != reference and (one := difference(answers[variant], answers[reference], some)) is not None:
                    found[reference, variant, place] = Contrast(place, reference, variant, one)
    contrasts: dict[tuple[str, str, str], Contrast] = {}
    for reference in references:
        own = [one for one in found.values() if one.reference == reference]
        families = [one for one in own if one.task != MEAN], [one for one in own if one.task == MEAN]
        contrasts |= {(c.reference, c.variant, c.task): c for family in families for c in corrected(family)}
    order = [(r, v, p) for r in references for v in answers for p in places]
    return [contrasts[key] for key in order if key in contrasts]
