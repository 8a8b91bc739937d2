"""The replies of a comparison by variant, task, seed and question, and what of them is drawn together."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from yarbus.core.own_names import own_name
from yarbus.report.runs import Comparison, Row, Run

Key = tuple[str, int, str]
"""(task, seed, sample id)."""
Answers = dict[Key, Row]
"""Key -> line of replies.jsonl."""
PART = " \N{MIDDLE DOT} "
"""Between a benchmark and its task in the name of a task."""


def benchmark_of(task: str) -> str:
    """The benchmark that a task of a comparison belongs to."""
    return task.partition(PART)[0]


def common_benchmark_prefix(benchmarks: Sequence[str]) -> str:
    """``tinyworld/`` where all benchmarks begin with it, so that tables can leave it out."""
    prefixes = {name.rpartition("/")[0] for name in benchmarks if own_name(name) is None}
    shared = len(prefixes) == 1 and all(own_name(name) is None for name in benchmarks)
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
            name = evaluation.label if one_task else f"{evaluation.label}{PART}{row.get('task') or 'other'}"
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
    chances = dict(sorted(chances.items(), key=lambda item: order.get(benchmark_of(item[0]), len(order))))
    prefix = common_benchmark_prefix([e.label for run in comparison.runs for e in run.final_evaluations])
    short = {
        variant: {(task.removeprefix(prefix), seed, sample): row for (task, seed, sample), row in some.items()}
        for variant, some in answers.items()
    }
    return short, {task.removeprefix(prefix): chance for task, chance in chances.items()}


def is_right(row: Row) -> float:
    """1 for a right answer, 0 for a wrong one or a question that failed."""
    return float(bool(row["is_correct"]))


def groups_of(keys: Iterable[Key], answers: Answers) -> list[str]:
    """What is drawn together: the scene if the data names one, else the question."""
    groups = []
    for key in keys:
        group = answers[key].get("group")
        groups.append(f"scene {group}" if group is not None else f"{key[0]} {key[2]}")
    return groups


def over_seeds(answers: Answers) -> dict[tuple[str, str], float]:
    """Fraction of its seeds that answered each question right."""
    verdicts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (task, _, sample), row in answers.items():
        verdicts[task, sample].append(is_right(row))
    return {key: sum(values) / len(values) for key, values in verdicts.items()}
