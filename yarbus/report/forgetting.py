"""What tuning gave in classification and took from instructions, or the other way round: the numbers of one panel.

Every benchmark is one task here, and each of the two scores is the plain mean over the benchmarks of its kind. The
record of a benchmark may say its kind; else it is classification if its name, or the task in it, begins so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from yarbus.core.errors import CheckpointError
from yarbus.report.answers import PART, Answers, answers_of, benchmark_of, common_benchmark_prefix
from yarbus.report.cells import Cell, cell_of, mean_cell
from yarbus.report.contrasts import difference, references_of
from yarbus.report.intervals import Difference
from yarbus.report.runs import Comparison, Row
from yarbus.report.sweeps import Sweep

BEGINS = "classif"
BASE = "base"
CLASSIFICATION, INSTRUCTION = "classification", "instruction"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model: both scores, each task's, and how both differ from the base's."""

    name: str
    alpha: float | None
    """Where on a curve it lies; None for a variant."""
    classification: Cell
    instruction: Cell
    tasks: dict[str, Cell]
    gained: Difference | None
    """Classification minus the base's; None for the base itself."""
    kept: Difference | None
    """Instructions minus the base's."""


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """All models of the panel on the same questions."""

    classification: list[str]
    instruction: list[str]
    base: str
    """What the others are compared with: a variant, or the first blend of a curve."""
    variants: list[Point]
    curves: dict[str, list[Point]]
    """By name, in order of alpha."""
    left_out: list[str]
    """Models without an answer to one of the tasks."""

    @property
    def points(self) -> list[Point]:
        """Variants, then curves."""
        return [*self.variants, *(point for curve in self.curves.values() for point in curve)]


def is_classification(label: str, task: str = "") -> bool:
    """Whether a benchmark without a recorded kind, or a task in it, is called after classification."""
    return any(word.rpartition("/")[2].removeprefix("file:").lower().startswith(BEGINS) for word in (label, task))


def _panel_tasks(comparison: Comparison, tasks: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Task -> what it is called in the panel, which knows benchmarks only, and its kind.

    A benchmark that holds both kinds is two tasks.
    """
    evaluations = [one for run in comparison.runs for one in run.final_evaluations]
    prefix = common_benchmark_prefix([one.label for one in evaluations])
    said = {one.label.removeprefix(prefix): one.scores.get("kind") for one in evaluations}
    kinds: dict[str, str] = {}
    for task in tasks:
        label, _, part = task.partition(PART)
        by_name = CLASSIFICATION if is_classification(label, part) else INSTRUCTION
        kinds[task] = next((kind for kind in (CLASSIFICATION, INSTRUCTION) if said.get(label) == kind), by_name)
    held: dict[str, set[str]] = {}
    for task, kind in kinds.items():
        held.setdefault(benchmark_of(task), set()).add(kind)
    found = {}
    for task, kind in kinds.items():
        label = benchmark_of(task)
        found[task] = (label if len(held[label]) == 1 else f"{label} ({kind})", kind)
    return found


def _mean(answers: Answers, tasks: list[str]) -> Cell:
    cell = cell_of(answers, tasks[0]) if len(tasks) == 1 else mean_cell(answers, tasks)
    assert cell is not None, "a model without an answer was left out"
    return cell


def _point(name: str, alpha: float | None, answers: Answers, tasks: dict[str, list[str]], base: Answers) -> Point:
    classification, instruction = tasks[CLASSIFICATION], tasks[INSTRUCTION]
    is_base = answers is base
    return Point(
        name=name,
        alpha=alpha,
        classification=_mean(answers, classification),
        instruction=_mean(answers, instruction),
        tasks={task: _mean(answers, [task]) for task in [*classification, *instruction]},
        gained=None if is_base else difference(answers, base, classification),
        kept=None if is_base else difference(answers, base, instruction),
    )


def _base_of(
    comparison: Comparison, answers: Mapping[str, Answers], variants: Sequence[str], sweeps: Sequence[Sweep]
) -> str:
    """``base``, or what a curve begins with if all variants began there too, or ``frozen``, or the first there is."""
    starts = {run.folder.name for run in comparison.shared}
    if BASE in variants:
        return BASE
    for sweep in sweeps:
        first = next(iter(sweep.runs.items()), None)
        begins = sweep.begins_with_base or Path(sweep.models[0]).name in starts
        if begins and first is not None and first[0] == 0 and first[1].variant in answers:
            return first[1].variant
    return [*references_of(variants), *answers][0]


def forgetting_of(comparison: Comparison, sweeps: Sequence[Sweep]) -> Forgetting | None:
    """The panel's numbers; None where there are not tasks of both kinds that all variants have answered."""
    blends = {run.variant: (sweep.name, alpha) for sweep in sweeps for alpha, run in sweep.runs.items()}
    own = [run for run in comparison.runs if run.variant not in blends]
    every = replace(
        comparison,
        variants=[*(name for name in comparison.variants if name not in blends), *blends],
        runs=[*own, *(run for sweep in sweeps for run in sweep.runs.values())],
    )
    found, chances = answers_of(every)
    named = _panel_tasks(every, list(chances))
    answers = {
        name: {(named[task][0], seed, sample): row for (task, seed, sample), row in some.items()}
        for name, some in found.items()
        if some
    }
    asked = {name: {key[0] for key in some} for name, some in answers.items()}
    if not asked:
        return None
    rows = [name for name in asked if name not in blends] or list(asked)
    shared = set.intersection(*(asked[name] for name in rows))
    kinds = {name: kind for name, kind in named.values() if name in shared}
    tasks = {kind: [n for n, k in kinds.items() if k == kind] for kind in (CLASSIFICATION, INSTRUCTION)}
    if not all(tasks.values()):
        return None
    whole = {name: some for name, some in answers.items() if shared <= asked[name]}
    variants = [name for name in whole if name not in blends]
    base = _base_of(comparison, whole, variants, sweeps)
    points = {
        name: _point(name, blends[name][1] if name in blends else None, some, tasks, whole[base])
        for name, some in whole.items()
    }
    curves: dict[str, list[Point]] = {}
    for name, (curve, _) in sorted(blends.items(), key=lambda item: item[1]):
        if name in points:
            curves.setdefault(curve, []).append(points[name])
    return Forgetting(
        classification=tasks[CLASSIFICATION],
        instruction=tasks[INSTRUCTION],
        base=base,
        variants=[points[name] for name in variants],
        curves=curves,
        left_out=[name for name in answers if name not in whole],
    )


def plain(found: Forgetting | None) -> Row:
    """The same as plain values, for a digest; empty where there is none."""
    return {} if found is None else asdict(found)


def forgetting_from(record: Row, where: Path) -> Forgetting | None:
    """The panel in a digest."""
    if not record:
        return None

    def point(values: Row) -> Point:
        cells: dict[str, Any] = {key: Cell(**values[key]) for key in ("classification", "instruction")}
        cells["tasks"] = {task: Cell(**cell) for task, cell in values["tasks"].items()}
        gaps = {key: None if values[key] is None else Difference(**values[key]) for key in ("gained", "kept")}
        return Point(**{**values, **cells, **gaps})

    try:
        return Forgetting(
            **{
                **record,
                "variants": [point(one) for one in record["variants"]],
                "curves": {name: [point(one) for one in curve] for name, curve in record["curves"].items()},
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        why, fix = f"no panel: {type(error).__name__} {error}", "write it again with digest_of"
        raise CheckpointError("damaged record", where=where, why=why, fix=fix) from None
