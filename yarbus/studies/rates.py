"""Learning rates chosen with equal effort: every variant tries equally many candidates on validation questions.

A method that was tuned beats one that was not, whatever the methods are. So each variant gets as many candidates, each
is trained once from the same start, and the best mean over the validation benchmarks' tasks is taken. Test questions
are never asked here; a benchmark that the recipe itself is evaluated on is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from yarbus.core.errors import ConfigError
from yarbus.core.recipe import Recipe, load_recipe, variant
from yarbus.core.records import make_folder, read_record, write_json
from yarbus.evaluation.folder import benchmark_folder
from yarbus.studies.compare import check_works
from yarbus.studies.work import Work, shared_start
from yarbus.studies.workers import default_jobs, work_off

Changes = Mapping[str, Any]
"""Dotted path -> value."""


def _check(recipe: Recipe, candidates: Mapping[str, Sequence[Changes]], benchmarks: Sequence[str]) -> None:
    if not candidates or not any(candidates.values()):
        raise ConfigError("no candidates", fix="give each variant some changes to try")
    counts = {name: len(some) for name, some in candidates.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigError("unequal effort", why=shown, fix="give every variant equally many candidates")
    if not benchmarks:
        raise ConfigError("no validation questions", fix="name benchmarks of a validation split")
    if shared := set(benchmarks) & set(recipe.evaluation):
        raise ConfigError(
            "rates would be chosen on test questions",
            why=f"the recipe is evaluated on {sorted(shared)[0]}",
            fix="name benchmarks of a validation split",
        )


def _score(run: Path, benchmarks: Sequence[str]) -> dict[str, float]:
    """Validation scores by task: every metric of a benchmark but the accuracy over all tasks, where it has others."""
    found: dict[str, float] = {}
    for name in benchmarks:
        metrics = read_record(benchmark_folder(run, name, "official") / "scores.json")["metrics"]
        tasks = {key: value for key, value in metrics.items() if key != "accuracy"} or metrics
        found |= {f"{name}/{key}": float(value["value"]) for key, value in tasks.items()}
    return found


def choose_rates(
    recipe: Recipe,
    candidates: Mapping[str, Sequence[Changes]],
    *,
    benchmarks: Sequence[str],
    folder: Path,
    seed: int = 100,
    jobs: int | None = None,
    progress: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Trains every candidate of every variant once and writes ``rates.json``: what was chosen, and all that was seen.

    Args:
        recipe: names the variants; its last stage is what the candidates change.
        candidates: for each variant equally many sets of changes.
        benchmarks: validation questions; a file with tasks counts as one score per task.
        seed: a seed that the later comparison does not use.

    Returns:
        The record: ``{"seed", "benchmarks", "variants": {name: {"chosen": changes, "tried": [{"changes", "mean",
        "tasks"}]}}}``.

    Raises:
        ConfigError: variants have unequally many candidates, one cannot be trained, or the folder holds runs of others.
    """
    _check(recipe, candidates, benchmarks)
    works: dict[str, Work] = {}
    after: dict[str, str] = {}
    tried: dict[str, list[tuple[Changes, Path]]] = {}
    for name, some in candidates.items():
        for number, changes in enumerate(some):
            one = load_recipe({**variant(recipe, name).resolved(), "seed": seed}, changes)
            label, start = f"{name}-try{number}", shared_start(one, folder)
            if start is not None:
                works.setdefault(start.label, start)
                after[label] = start.label
            works[label] = Work(
                label=label, recipe={**one.resolved(), "name": label, "evaluation": list(benchmarks)},
                run=folder / label, start=None if start is None else start.adapter, stages=(list(one.stages)[-1],),
                benchmarks=tuple(benchmarks),
            )  # fmt: skip
            tried.setdefault(name, []).append((changes, folder / label))
    check_works(recipe, list(works.values()), folder)
    make_folder(folder)
    work_off(list(works.values()), after, jobs or default_jobs(len(works)), progress)
    variants = {}
    for name, runs in tried.items():
        lines: list[dict[str, Any]] = []
        for changes, run in runs:
            tasks = _score(run, benchmarks)
            lines.append({"changes": dict(changes), "mean": mean(tasks.values()), "tasks": tasks})
        best = max(lines, key=lambda line: float(line["mean"]))
        variants[name] = {"chosen": best["changes"], "tried": lines}
    record = {"seed": seed, "benchmarks": list(benchmarks), "command": command, "variants": variants}
    write_json(folder / "rates.json", record)
    return record
