"""What the records of a comparison say: accuracies, paired differences, one headline.

Everything is made from the replies on disk. A *column* is one task of one benchmark; the *mean* is the plain
mean over those tasks that every variant has answered. Failed samples count as wrong. Fractions throughout.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from yarbus.report.intervals import Difference, bootstrap_mean, paired_bootstrap, wilson
from yarbus.report.runs import Comparison, Row, Run

REFERENCES = ("frozen", "full")
"""Variants that the others are compared with, if they take part."""

Answers = dict[tuple[str, int, str], Row]
"""(task, seed, sample id) -> line of replies.jsonl."""


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


@dataclass(frozen=True)
class Contrast:
    """Variant minus reference on one task or the mean: paired by question and seed, drawn by scene."""

    task: str
    reference: str
    variant: str
    difference: Difference


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


MEAN = "mean of tasks"


def percent(fraction: int | float, sign: bool = False) -> str:
    """``0.7125`` as ``71.2``: the only place where fractions become percent."""
    text = f"{100 * fraction:+.1f}" if sign else f"{100 * fraction:.1f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else "0.0"


def common_benchmark_prefix(benchmarks: Sequence[str]) -> str:
    """``tinyworld/`` where all benchmarks begin with it, so that tables can leave it out."""
    prefixes = {name.rpartition("/")[0] for name in benchmarks if not name.startswith("file:")}
    shared = len(prefixes) == 1 and not any(name.startswith("file:") for name in benchmarks)
    return f"{prefixes.pop()}/" if shared and "" not in prefixes else ""


def _answers(run: Run) -> tuple[Answers, dict[str, float | None]]:
    """The replies of one run by task and sample, and each task's chance level."""
    answers: Answers = {}
    chances: dict[str, float | None] = {}
    for evaluation in run.final_evaluations:
        metrics = evaluation.scores.get("metrics", {})
        tasks = {row.get("task") for row in evaluation.replies}
        for row in evaluation.replies:
            one_task = len(tasks) == 1
            name = evaluation.label if one_task else f"{evaluation.label} · {row.get('task') or 'other'}"
            metric = next(iter(metrics), "") if one_task else row.get("task")
            chance = metrics.get(metric, {}).get("chance")
            chances[name] = None if chance is None else float(chance)
            answers[name, run.seed, str(row["sample_id"])] = row
    return answers, chances


def answers_of(comparison: Comparison) -> tuple[dict[str, Answers], dict[str, float | None]]:
    """Replies of each variant over all its seeds, and the chance level of each task, in order of the records."""
    answers: dict[str, Answers] = {}
    chances: dict[str, float | None] = {}
    for variant in comparison.variants:
        answers[variant] = {}
        for run in comparison.runs_of(variant):
            some, levels = _answers(run)
            answers[variant] |= some
            chances |= levels
    order = {task: number for number, task in enumerate(comparison.tasks)}
    chances = dict(sorted(chances.items(), key=lambda item: order.get(item[0].partition(" · ")[0], len(order))))
    prefix = common_benchmark_prefix([e.label for run in comparison.runs for e in run.final_evaluations])
    short = {
        variant: {(task.removeprefix(prefix), seed, sample): row for (task, seed, sample), row in some.items()}
        for variant, some in answers.items()
    }
    return short, {task.removeprefix(prefix): chance for task, chance in chances.items()}


def _groups(keys: list[tuple[str, int, str]], answers: Answers) -> list[str]:
    """What is drawn together: the scene if the data names one, else the question."""
    groups = []
    for key in keys:
        group = answers[key].get("group")
        groups.append(f"scene {group}" if group is not None else f"{key[0]} {key[2]}")
    return groups


def _cell(answers: Answers, task: str) -> Cell | None:
    values = [float(bool(row["is_correct"])) for (name, _, _), row in answers.items() if name == task]
    if not values:
        return None
    seeds = {seed for name, seed, _ in answers if name == task}
    questions = {sample for name, _, sample in answers if name == task}
    value = sum(values) / len(values)
    # Seeds answer the same questions: counting each question once keeps the interval honest.
    interval = wilson(value * len(questions), len(questions))
    return Cell(value, interval.low, interval.high, len(questions), len(seeds))


def _mean_cell(answers: Answers, tasks: list[str]) -> Cell:
    keys = [key for key in answers if key[0] in tasks]
    found = bootstrap_mean(
        [float(bool(answers[key]["is_correct"])) for key in keys],
        _groups(keys, answers),
        seeds=[key[1] for key in keys],
        tasks=[key[0] for key in keys],
    )
    return Cell(found.mean, found.low, found.high, len({(k[0], k[2]) for k in keys}), len({k[1] for k in keys}))


def _over_seeds(answers: Answers) -> dict[tuple[str, str], float]:
    """Fraction of its seeds that answered each question right."""
    verdicts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (task, _, sample), row in answers.items():
        verdicts[task, sample].append(float(bool(row["is_correct"])))
    return {key: sum(values) / len(values) for key, values in verdicts.items()}


def _difference(a: Answers, b: Answers, tasks: list[str]) -> Difference | None:
    """a - b over the questions both answered; None without any. Variants without a common seed pair by question."""
    a, b = ({key: row for key, row in some.items() if key[0] in tasks} for some in (a, b))
    keys = [key for key in a if key in b]
    if keys:
        return paired_bootstrap(
            [float(bool(a[key]["is_correct"])) for key in keys],
            [float(bool(b[key]["is_correct"])) for key in keys],
            _groups(keys, a),
            seeds=[key[1] for key in keys],
            tasks=[key[0] for key in keys],
        )
    of_a, of_b = _over_seeds(a), _over_seeds(b)
    keys = [key for key in a if (key[0], key[2]) in of_b]
    if not keys:
        return None
    keys = list({(task, sample): (task, seed, sample) for task, seed, sample in keys}.values())
    return paired_bootstrap(
        [of_a[task, sample] for task, _, sample in keys],
        [of_b[task, sample] for task, _, sample in keys],
        _groups(keys, a),
        tasks=[key[0] for key in keys],
    )


def _points(difference: Difference) -> str:
    low, high = percent(difference.low, True), percent(difference.high, True)
    return f"{percent(difference.mean, True)} points, 95 % interval {low} to {high}"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _headline(
    answers: dict[str, Answers], mean: Line, tasks: list[str], contrasts: list[Contrast]
) -> tuple[str, list[str]]:
    """The result in plain words, and the sentences that qualify it."""
    cells = {variant: cell for variant, cell in mean.cells.items() if cell is not None}
    if not cells:
        return "No scores yet: nothing has been evaluated in this folder.", []
    over = f"the mean of {len(tasks)} tasks" if len(tasks) > 1 else tasks[0]
    ranking = sorted(cells, key=lambda variant: -cells[variant].value)
    leader = ranking[0]
    if len(ranking) == 1:
        cell = cells[leader]
        chance = "" if mean.chance is None else f"; guessing reaches {percent(mean.chance)} %"
        interval = f"95 % interval {percent(cell.low)} to {percent(cell.high)}"
        return f"{leader} answers {percent(cell.value)} % right on {over} ({interval}{chance}).", []
    second = ranking[1]
    gap = _difference(answers[leader], answers[second], tasks)
    if gap is None:
        return f"{leader} reaches {percent(cells[leader].value)} % on {over}; {second} answered other questions.", []
    if gap.includes_zero:
        tied = [v for v in ranking[1:] if (d := _difference(answers[leader], answers[v], tasks)) and d.includes_zero]
        headline = (
            f"{leader} leads with {percent(cells[leader].value)} % on {over}, but its difference to {second} "
            f"includes 0 ({_points(gap)}): this run is too short to separate {_join([leader, *tied])}."
        )
    else:
        headline = (
            f"{leader} is ahead with {percent(cells[leader].value)} % on {over}, clear of the next best, {second} "
            f"({_points(gap)})."
        )
    return headline, [sentence for name in REFERENCES if (sentence := _against(name, mean.task, contrasts))]


def _against(reference: str, task: str, contrasts: list[Contrast]) -> str:
    """Who is better or worse than the reference, and who cannot be told from it; empty without a contrast."""
    found = [c for c in contrasts if c.reference == reference and c.task == task]
    if not found:
        return ""
    parts = []
    for names, claim in (
        ([c.variant for c in found if c.difference.low > 0], "better"),
        ([c.variant for c in found if c.difference.high < 0], "worse"),
        ([c.variant for c in found if c.difference.includes_zero], "not separated, their difference includes 0"),
    ):
        if names:
            parts.append(f"{_join(names)} {'is' if len(names) == 1 else 'are'} {claim}")
    text = f"Against {reference}: {'; '.join(parts)}."
    alone = sum(c.difference.includes_zero for c in found) == 1
    return text.replace("their difference includes", "its difference includes") if alone else text


def summarise(comparison: Comparison) -> Summary:
    """All numbers of the page and of the terminal table."""
    answers, chances = answers_of(comparison)
    lines = [
        Line(task, chance, {variant: _cell(answers[variant], task) for variant in comparison.variants})
        for task, chance in chances.items()
    ]
    evaluated = [v for v in comparison.variants if answers[v]]
    shared = [line for line in lines if all(line.cells[variant] is not None for variant in evaluated)]
    tasks = [line.task for line in shared]
    levels = [line.chance for line in shared if line.chance is not None]
    chance = sum(levels) / len(levels) if shared and len(levels) == len(shared) else None
    mean = None
    if len(tasks) > 1:
        cells = {v: _mean_cell(answers[v], tasks) if v in evaluated else None for v in comparison.variants}
        mean = Line(MEAN, chance, cells)
    total = mean or (shared[0] if shared else Line(MEAN, None, dict.fromkeys(comparison.variants)))

    contrasts = []
    for reference in REFERENCES:
        for variant in evaluated:
            if reference not in evaluated or variant == reference:
                continue
            for task in tasks + ([MEAN] if mean else []):
                found = _difference(answers[variant], answers[reference], tasks if task == MEAN else [task])
                if found is not None:
                    contrasts.append(Contrast(task, reference, variant, found))
    headline, details = _headline(answers, total, tasks, contrasts)
    trained = {variant: {seed for _, seed, _ in answers[variant]} for variant in evaluated}
    if len(evaluated) > 1 and all(len(seeds) == 1 for seeds in trained.values()):
        details.append(
            "Every variant was trained once: the intervals cover the choice of test scenes, "
            "not the luck of a training seed."
        )
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
    return Summary(
        lines=lines,
        mean=mean,
        contrasts=contrasts,
        headline=headline,
        details=details,
        unfinished=[f"{variant}, seed {seed}" for variant, seed in missing],
        num_errors=sum(row.get("error") is not None for some in answers.values() for row in some.values()),
    )


def contrast(comparison: Comparison, reference: str, variant: str) -> Contrast | None:
    """Variant minus reference on the mean of the tasks that both have answered, whatever the page's references are."""
    answers, chances = answers_of(comparison)
    a, b = answers[variant], answers[reference]
    tasks = [task for task in chances if {task} <= {key[0] for key in a} & {key[0] for key in b}]
    found = _difference(a, b, tasks) if tasks else None
    return None if found is None else Contrast(MEAN, reference, variant, found)
