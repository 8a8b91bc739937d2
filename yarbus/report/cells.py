"""How often a variant is right: on one task, and on the mean of tasks, with intervals."""

from collections.abc import Iterable
from dataclasses import dataclass

from yarbus.report.answers import Answers, groups_of, is_right
from yarbus.report.intervals import Difference, Interval, bootstrap_mean, wilson

MEAN = "mean of tasks"


@dataclass(frozen=True)
class Cell:
    """Accuracy of one variant on one task, averaged over its seeds, with its 95 % interval."""

    value: float
    low: float
    high: float
    num_questions: int
    num_seeds: int


@dataclass(frozen=True)
class Line:
    """One task (or the mean of tasks): chance, and each variant's accuracy; None where nothing is known."""

    task: str
    chance: float | None
    cells: dict[str, Cell | None]


def cell_of(answers: Answers, task: str) -> Cell | None:
    """One variant on one task; None where it has not been asked.

    The interval is drawn over scenes and seeds, as the mean's is. It is Wilson's where one seed answered one question
    about each scene, and where all answers are right or all wrong, of which draws could only repeat the same: then
    each scene counts once.
    """
    values = [is_right(row) for (name, _, _), row in answers.items() if name == task]
    if not values:
        return None
    seeds = {seed for name, seed, _ in answers if name == task}
    questions = {sample for name, _, sample in answers if name == task}
    value = sum(values) / len(values)
    ends = _ends(answers, task, len(questions), len(seeds))
    return Cell(value, ends.low, ends.high, len(questions), len(seeds))


def _ends(answers: Answers, task: str, num_questions: int, num_seeds: int) -> Interval | Difference:
    keys = [key for key in answers if key[0] == task]
    values, groups = [is_right(answers[key]) for key in keys], groups_of(keys, answers)
    scenes = len(set(groups))
    share = sum(values) / len(values)
    if (num_seeds == 1 and scenes == num_questions) or share in (0.0, 1.0):
        return wilson(share * scenes, scenes)
    return bootstrap_mean(values, groups, seeds=[key[1] for key in keys])


def mean_cell(answers: Answers, tasks: list[str]) -> Cell:
    """One variant on the plain mean over these tasks."""
    keys = [key for key in answers if key[0] in tasks]
    found = bootstrap_mean(
        [is_right(answers[key]) for key in keys],
        groups_of(keys, answers),
        seeds=[key[1] for key in keys],
        tasks=[key[0] for key in keys],
    )
    return Cell(found.mean, found.low, found.high, len({(k[0], k[2]) for k in keys}), len({k[1] for k in keys}))


def sizes(lines: Iterable[Line]) -> list[int]:
    """The different numbers of questions per task, from the smallest."""
    return sorted({cell.num_questions for line in lines for cell in line.cells.values() if cell})
