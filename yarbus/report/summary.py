"""What the records of a comparison say: accuracies, paired differences, one headline.

Everything is made from the replies on disk. A *column* is one task of one benchmark; the *mean* is the plain
mean over those tasks that every variant has answered. Failed samples count as wrong. Fractions throughout.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from yarbus.report.answers import Answers, answers_of, benchmark_of
from yarbus.report.beats import Beats, beats_of
from yarbus.report.cells import MEAN, Line, cell_of, mean_cell
from yarbus.report.contrasts import Contrast, contrasts_of, corrected, difference
from yarbus.report.headline import against, headline_of, trained_once
from yarbus.report.leave_out import hanging, leave_out
from yarbus.report.runs import Comparison


@dataclass(frozen=True)
class Summary:
    """The whole page in numbers."""

    lines: list[Line]
    mean: Line | None
    """None where fewer than two tasks can be averaged; a single task's line then stands for it."""
    contrasts: list[Contrast]
    headline: str
    details: list[str]
    """Sentences that qualify the headline."""
    unfinished: list[str]
    """Runs that the comparison names and that have no scores yet, or not all."""
    num_errors: int

    def contrast(self, task: str, reference: str, variant: str) -> Contrast | None:
        """One difference, or None."""
        wanted = (task, reference, variant)
        return next((c for c in self.contrasts if (c.task, c.reference, c.variant) == wanted), None)

    def beats(self, reference: str, variant: str) -> Beats | None:
        """On how many tasks the variant lies above the reference, or None."""
        return beats_of(self.contrasts, reference, variant)

    @property
    def references(self) -> list[str]:
        """What the variants were compared with."""
        return list(dict.fromkeys(c.reference for c in self.contrasts))

    @property
    def total(self) -> Line | None:
        """The mean of tasks, or the one task that stands for it."""
        return self.mean or (self.lines[0] if self.lines else None)


def _unfinished(comparison: Comparison) -> list[str]:
    expected = {(variant, seed) for variant in comparison.variants for seed in comparison.seeds}
    done = {(run.variant, run.seed) for run in comparison.runs if run.evaluations}
    every = {e.label for run in comparison.runs for e in run.final_evaluations}
    partial = {
        (run.variant, run.seed)
        for run in comparison.runs
        if run.evaluations and {e.label for e in run.final_evaluations} != every
    }
    side_by_side = not (comparison.folder / "comparison.json").exists()
    missing = sorted(partial if side_by_side else (expected - done) | partial)
    return [f"{variant}, seed {seed}" for variant, seed in missing]


def _mean_line(answers: Mapping[str, Answers], shared: list[Line]) -> Line | None:
    """The mean of the tasks that every variant with an answer has answered; None of fewer than two."""
    if len(shared) < 2:
        return None
    levels = [line.chance for line in shared if line.chance is not None]
    chance = sum(levels) / len(levels) if len(levels) == len(shared) else None
    tasks = [line.task for line in shared]
    return Line(MEAN, chance, {v: mean_cell(some, tasks) if some else None for v, some in answers.items()})


def summarise(comparison: Comparison) -> Summary:
    """All numbers of the page and of the terminal table."""
    answers, chances = answers_of(comparison)
    lines = [
        Line(task, chance, {variant: cell_of(some, task) for variant, some in answers.items()})
        for task, chance in chances.items()
    ]
    evaluated = {variant: some for variant, some in answers.items() if some}
    shared = [line for line in lines if all(line.cells[variant] is not None for variant in evaluated)]
    tasks = [line.task for line in shared]
    mean = _mean_line(answers, shared)
    total = mean or (shared[0] if shared else Line(MEAN, None, dict.fromkeys(answers)))
    contrasts = contrasts_of(evaluated, tasks)
    references = list(dict.fromkeys(one.reference for one in contrasts))
    first = references[0] if references else None
    details = [
        *(against(reference, total.task, contrasts) for reference in references),
        hanging(leave_out(shared, contrasts, first), contrasts, first),
        trained_once(evaluated),
    ]
    return Summary(
        lines=lines,
        mean=mean,
        contrasts=contrasts,
        headline=headline_of(answers, total, tasks),
        details=[sentence for sentence in details if sentence],
        unfinished=_unfinished(comparison),
        num_errors=sum(row.get("error") is not None for some in answers.values() for row in some.values()),
    )


def contrasts_between(
    comparison: Comparison, pairs: Iterable[tuple[str, str]], among: Collection[str] | None = None, name: str = MEAN
) -> list[Contrast]:
    """Variant minus reference of these (reference, variant) pairs, whatever the page's references are.

    On the mean of the tasks that both have answered; ``among`` keeps those of some benchmarks, called as the page calls
    them, and ``name`` is what their mean is called. p values are corrected over the pairs. A pair without answers is
    left out.
    """
    answers, chances = answers_of(comparison)
    kept = [task for task in chances if among is None or benchmark_of(task) in among]
    found = []
    for reference, variant in pairs:
        a, b = answers.get(variant, {}), answers.get(reference, {})
        shared = {key[0] for key in a} & {key[0] for key in b}
        if tasks := [task for task in kept if task in shared]:
            gap = difference(a, b, tasks)
            assert gap is not None, "both have answered these tasks"
            found.append(Contrast(name, reference, variant, gap))
    return corrected(found)
