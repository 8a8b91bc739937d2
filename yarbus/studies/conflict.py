"""Visual preference conflict: do a recipe's tasks pull the tower in different directions, and what follows from it?

Cheap first: gradients of a few hundred rows, by task and block, at the point where tuning the tower would begin. On
request short runs (``steps``), and the diagnoses of a trained run (``run``). Every figure has its control beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yarbus.core.errors import CheckpointError, ConfigError, DataError
from yarbus.core.recipe import Recipe, load_recipe, stage_hash
from yarbus.core.records import environment, make_folder, read_json, read_record, write_json
from yarbus.core.table import closest
from yarbus.data.sample import Sample
from yarbus.report.html import write_report
from yarbus.studies.work import Work, quieten
from yarbus.studies.workers import default_jobs, work_off

if TYPE_CHECKING:  # torch takes seconds, and a wrong name should be told at once
    from yarbus.data.grouping import Grouping
    from yarbus.studies.probes import Probes
else:
    Grouping = Probes = Any

MIN_BATCHES = 4
"""Batches per task below which halves of a task are too small to be a ceiling."""
RECORD = "conflict.json"
BASE = "base"


def _stage(recipe: Recipe, stage: str | None) -> str:
    if stage is None:
        return list(recipe.stages)[-1]
    if stage not in recipe.stages:
        raise ConfigError(f"unknown stage '{stage}'", fix=f"use one of: {closest(stage, list(recipe.stages))}")
    return stage


def _work_before(recipe: Recipe, stage: str, folder: Path) -> Work | None:
    """The stages before the one in question, as ``compare`` trains them once for all variants."""
    names = list(recipe.stages)
    shared = tuple(names[: names.index(stage)])
    if not shared:
        return None
    label = f"{shared[-1]}-{stage_hash(recipe, shared[-1])}"
    stages = {name: recipe.resolved()["stages"][name] for name in shared}
    values = {**recipe.resolved(), "name": label, "stages": stages, "evaluation": [], "compare": None}
    return Work(label=label, recipe=values, run=folder / label, start=None, stages=shared, benchmarks=())


def _refuse_another(recipe: Recipe, folder: Path) -> None:
    """Raises where the folder holds records of another recipe: a study, or a comparison that this one stands in."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the folder is a file", where=folder, fix="name another folder")
    for what, name in (("study", RECORD), ("comparison", "comparison.json")):
        if (folder / name).is_file():
            from yarbus.studies.earlier import refuse_other_recipe

            refuse_other_recipe(recipe, folder / name, f"a {what} of another recipe is in this folder")


def _check_run(run: Path, recipe: Recipe, stage: str) -> None:
    """Raises where the run could not stand for this recipe, or has nothing to show yet."""
    if not (run / "recipe.yaml").is_file():
        raise ConfigError("not a run", where=run, why="it has no recipe.yaml", fix="name the folder of a trained run")
    if not (run / "adapter").is_dir():
        fix = "train it again with --resume auto"
        raise CheckpointError("the run has not finished", where=run, why="it has no adapter/", fix=fix)
    own = load_recipe(run / "recipe.yaml")
    trained_on = [(one.path, one.task) for one in list(own.stages.values())[-1].data]
    asked = [(one.path, one.task) for one in recipe.stages[stage].data]
    for what, there, here in (
        ("another base", own.model.name, recipe.model.name),
        ("other data", trained_on, asked),
    ):
        if there != here:
            raise ConfigError(
                f"the run was trained on {what}",
                where=run,
                why=f"{_briefly(there)} there, {_briefly(here)} here",
                fix=f"name a run of this recipe, or take the run's own: {run / 'recipe.yaml'}",
            )


def _briefly(value: str | list[tuple[str, str | None]]) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(path if task is None else f"{path} ({task})" for path, task in value[:3])


def conflict(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    start: str | Path | None = None,
    stage: str | None = None,
    samples: int = 256,
    batch: int = 16,
    steps: int | None = None,
    seeds: int = 2,
    folder: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = True,
    command: str | None = None,
    note: str | None = None,
) -> Path:
    """Measures whether the tasks of a recipe's stage conflict in the vision tower; writes advice and a report.

    Args:
        recipe: a recipe, or what ``load_recipe`` takes. Its data name tasks or sources, or have questions to cluster.
        run: a trained run of the recipe, which adds contexts, routing, gaze, the swapped-question test and the
            agreement of its gradients. Without it these are listed as missing.
        start: the adapter from which the stage would begin, or ``base`` for the base model as it is; None trains the
            stages before it (once per folder).
        stage: the stage in question; None is the last.
        samples: rows per task for the gradients, in batches of ``batch``.
        steps: length of the mixture's short run; None makes none, and keeps what an earlier call in the folder made.
        seeds: of each short run; they train about ``3 * seeds * steps`` steps in all. Two seeds undercover: their
            interval holds the truth in six to eight of ten cases, depending on how far runs differ by chance.
        folder: None is ``conflicts/<recipe's name>``. An existing one is continued.
        jobs: short runs at a time, one thread each; None is one per core.

    Returns:
        The folder: ``conflict.json`` and ``report/index.html``.

    Raises:
        ConfigError: a setting is impossible, the run is of another recipe, or another study is in the folder.
        DataError: the data hold fewer than two tasks, or too few rows of one.
        CheckpointError: the run has not finished.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if batch < 1 or samples < MIN_BATCHES * batch:
        raise ConfigError(
            f"{samples} samples per task in batches of {batch}",
            why=f"the same-task control needs {MIN_BATCHES} batches",
            fix=f"use at least {MIN_BATCHES * max(1, batch)} samples, or a smaller batch",
        )
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}", fix="train at least one step, or leave it out")
    if seeds < 2:
        raise ConfigError(
            f"seeds is {seeds}", why="the same task under another seed is the control", fix="use 2 or more"
        )
    stage = _stage(recipe, stage)
    folder = Path(folder) if folder is not None else Path("conflicts") / (recipe.name or "conflict")
    _refuse_another(recipe, folder)
    if run is not None:
        _check_run(Path(run), recipe, stage)
    before, adapter, begun = _start(recipe, stage, start, folder)

    from yarbus.analysis.advice import advise
    from yarbus.data.grouping import group_samples
    from yarbus.data.mixture import read_mixture
    from yarbus.training.planning import check_inputs

    quieten()
    names = list(recipe.stages)
    check_inputs(recipe, names[: names.index(stage) + 1])
    rows = read_mixture(recipe.stages[stage].used_data)
    grouping = group_samples(rows)
    chosen = _chosen(rows, grouping, samples, batch, recipe.seed)
    probes = None if steps is None else _plan(recipe, stage, grouping, steps, folder, adapter, seeds)
    make_folder(folder)
    if before is not None:
        work_off([before], {}, 1, progress)
    record: dict[str, Any] = {
        "kind": "conflict",
        "name": folder.resolve().name,
        "recipe": recipe.resolved(),
        "stage": stage,
        "seed": recipe.seed,
        "command": command
        or f"yarbus.conflict({recipe.name!r}, samples={samples}, batch={batch}, steps={steps}, seeds={seeds})",
        "note": note,
        "start": begun,
        "machine": environment(),
        "grouping": {
            "by": grouping.by,
            "tasks": {name: _task_facts(name, grouping.labels, rows, len(some)) for name, some in chosen.items()},
        },
        "gradients": _gradients(recipe, stage, adapter, chosen, grouping, batch, progress),
        **(_earlier(folder, begun, stage) if probes is None else _short_runs(recipe, probes, adapter, jobs, progress)),
        "run": None if run is None else str(run),
    }
    record["missing"] = _missing(record["gap"] is not None, run, progress)
    record["advice"] = advise(record, _analysis(run, "swapped"), _analysis(run, "routing"))
    write_json(folder / RECORD, record)
    write_report(folder)
    return folder


def _earlier(folder: Path, begun: str, stage: str) -> dict[str, Any]:
    """What short runs of an earlier call in this folder said, where they began from the same."""
    old = read_record(folder / RECORD) if (folder / RECORD).is_file() else {}
    is_same = (old.get("start"), old.get("stage")) == (begun, stage)
    return {part: old.get(part) if is_same else None for part in ("drift", "gap")}


def _missing(has_runs: bool, run: str | Path | None, progress: bool) -> list[str]:
    """What is not measured, and what it needs; looks into the trained run where there is one."""
    missing = [] if has_runs else ["weight changes and what sharing costs: need --steps"]
    if run is None:
        parts = ("contexts", "routing", "gaze", "swapped questions", "gradient agreement in training")
        return missing + [f"{part}: needs --run" for part in parts]
    from yarbus.studies.diagnose import INDEX, diagnose

    analysis = diagnose(run, progress=progress)
    return missing + [f"{part}: {why}" for part, why in read_json(analysis / INDEX)["missing"].items()]


def _analysis(run: str | Path | None, name: str) -> dict[str, Any] | None:
    path = None if run is None else Path(run) / "analysis" / f"{name}.json"
    return read_record(path) if path is not None and path.is_file() else None


def _chosen(rows: Sequence[Sample], grouping: Grouping, samples: int, batch: int, seed: int) -> dict[str, list[Sample]]:
    """The rows of each task whose gradients are taken. Whole batches only, so that every batch counts the same."""
    from yarbus.data.grouping import choose
    from yarbus.studies.measuring import numbered

    label_of = dict(zip(map(id, rows), grouping.labels, strict=True))
    found: dict[str, list[Sample]] = {name: [] for name in grouping.names}
    for row in choose(rows, grouping, samples, seed):
        found[label_of[id(row)]].append(row)
    for name, some in found.items():
        if len(some) < MIN_BATCHES * batch:
            least = len(some) // MIN_BATCHES
            raise DataError(
                f"task '{name}' has {len(some)} rows",
                where=next((row.where.rpartition(":")[0] for row in some if row.where), None),
                why=f"the same-task control needs {MIN_BATCHES} batches of {batch}",
                fix=f"use batches of {least}, or leave the task out" if least else "add rows, or leave the task out",
            )
    return {name: numbered(some[: len(some) // batch * batch]) for name, some in found.items()}


def _task_facts(name: str, labels: Sequence[str], rows: Sequence[Sample], num_samples: int) -> dict[str, Any]:
    mine = [row for row, label in zip(rows, labels, strict=True) if label == name]
    words = dict.fromkeys(turn.words for row in mine[:200] for turn in row.turns if turn.role == "user")
    return {"num_rows": len(mine), "num_samples": num_samples, "examples": list(words)[:3]}


def _start(recipe: Recipe, stage: str, start: str | Path | None, folder: Path) -> tuple[Work | None, Path | None, str]:
    """(what must be trained first, the adapter from which the stage would begin, how to say it); None is the base."""
    if start is not None and str(start) != BASE:
        path = Path(start)
        if not (path / "adapter.json").is_file():
            raise ConfigError("not an adapter", where=path, why="it has no adapter.json", fix="name a run's adapter/")
        return None, path, str(start)
    before = None if start is not None else _work_before(recipe, stage, folder)
    if before is None:
        return None, None, "the base model as it is"
    return before, before.run / "adapter", f"after stage {before.stages[-1]} ({before.label})"


def _plan(
    recipe: Recipe, stage: str, grouping: Grouping, steps: int, folder: Path, adapter: Path | None, seeds: int
) -> Probes:
    """The short runs; raises before any work for what they lack, and for others of the same name in the folder."""
    from yarbus.studies.earlier import refuse_another
    from yarbus.studies.probes import PROBES, plan_probes

    probes = plan_probes(recipe, stage, grouping, steps, folder, adapter, seeds)
    refuse_another(recipe, [probe.work for probe in probes.runs], folder / PROBES)
    return probes


def _model(recipe: Recipe, adapter: Path | None) -> tuple[Any, Any]:
    """Model and processor as the stage begins."""
    from yarbus.methods.assemble import load_adapter
    from yarbus.models.load import load_base

    model, processor = load_base(recipe.model.name)
    return (model, processor) if adapter is None else load_adapter(model, processor, adapter)


def _gradients(
    recipe: Recipe,
    stage: str,
    adapter: Path | None,
    chosen: Mapping[str, Sequence[Sample]],
    grouping: Grouping,
    batch: int,
    progress: bool,
) -> dict[str, Any]:
    """Gradients at the stage's beginning, of batches that hold one task each."""
    from yarbus.analysis.gradients import agreement, block_products
    from yarbus.core.progress import progress_of
    from yarbus.studies.measuring import batches_of, on_device

    model, processor = _model(recipe, adapter)
    model = on_device(model)
    with progress_of("gradients", sum(map(len, chosen.values())), progress) as advance:

        def batches() -> Iterator[dict[str, Any]]:
            for rows in chosen.values():
                for one in batches_of(rows, processor, recipe, batch):
                    yield one
                    advance(batch)

        products = block_products(model, batches(), recipe.stages[stage].precision)
    owners = [name for name, rows in chosen.items() for _ in range(len(rows) // batch)]
    shares = {name: grouping.labels.count(name) / len(grouping.labels) for name in grouping.names}
    return agreement(products, owners, batch=batch, shares=shares, seed=recipe.seed)


def _short_runs(
    recipe: Recipe, probes: Probes, adapter: Path | None, jobs: int | None, progress: bool
) -> dict[str, Any]:
    from yarbus.models.vlm import VLM
    from yarbus.studies.probes import drift_record, gap_record

    work_off([probe.work for probe in probes.runs], {}, jobs or default_jobs(len(probes.runs)), progress)
    start, _ = _model(recipe, adapter)
    return {"drift": drift_record(probes, VLM.of(start)), "gap": gap_record(probes, recipe, progress)}
