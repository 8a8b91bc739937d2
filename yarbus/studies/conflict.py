"""Visual preference conflict: do a recipe's tasks pull the tower in different directions, and what follows from it?

Cheap first: gradients of a few hundred rows, by task and block, at the point where tuning the tower would begin. On
request short runs (``steps``), and the diagnoses of a trained run (``run``). Every figure has its control beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yarbus.core.errors import ConfigError
from yarbus.core.recipe import Recipe, load_recipe, stage_hash
from yarbus.core.records import environment, make_folder, read_json, read_record, write_json
from yarbus.core.table import closest
from yarbus.report.html import write_report
from yarbus.studies.work import Work, quieten
from yarbus.studies.workers import cores, work_off

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
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the folder is a file", where=folder, fix="name another folder")
    if not (folder / RECORD).is_file():
        return
    from yarbus.training.folder import differences

    changed = differences(load_recipe(read_record(folder / RECORD)["recipe"]).resolved(), recipe.resolved())
    if changed:
        raise ConfigError(
            "a study of another recipe is in this folder",
            where=folder,
            why="; ".join(changed[:3]),
            fix="name another folder",
        )


def conflict(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    start: str | Path | None = None,
    stage: str | None = None,
    samples: int = 256,
    batch: int = 16,
    steps: int | None = None,
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
        steps: length of the mixture's short run; None makes none. With T tasks about ``6 * steps`` are trained.
        folder: None is ``conflicts/<recipe's name>``. An existing one is continued.
        jobs: short runs at a time, one thread each; None is one per core.

    Returns:
        The folder: ``conflict.json`` and ``report/index.html``.

    Raises:
        ConfigError: the data hold fewer than two tasks, a setting is impossible, or another study is in the folder.
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
    stage = _stage(recipe, stage)
    folder = Path(folder) if folder is not None else Path("conflicts") / (recipe.name or "conflict")
    _refuse_another(recipe, folder)
    if run is not None and not (Path(run) / "recipe.yaml").is_file():
        raise ConfigError("not a run", where=run, why="it has no recipe.yaml", fix="name the folder of a trained run")

    from yarbus.analysis.advice import advise
    from yarbus.data.grouping import choose, group_samples
    from yarbus.data.mixture import read_mixture
    from yarbus.training.planning import check_inputs

    quieten()
    check_inputs(recipe, list(recipe.stages)[: list(recipe.stages).index(stage) + 1])
    rows = read_mixture(recipe.stages[stage].data)
    grouping = group_samples(rows)
    probes_wanted = steps is not None
    if probes_wanted:
        _check_probes(recipe, stage, grouping)
    make_folder(folder)
    adapter, begun = _start(recipe, stage, start, folder, progress)
    chosen = choose(rows, grouping, samples, recipe.seed)
    labels = _labels(rows, grouping.labels, chosen)
    record: dict[str, Any] = {
        "kind": "conflict",
        "name": folder.resolve().name,
        "recipe": recipe.resolved(),
        "stage": stage,
        "seed": recipe.seed,
        "command": command or f"yarbus.conflict({recipe.name!r}, samples={samples}, batch={batch}, steps={steps})",
        "note": note,
        "start": begun,
        "machine": environment(),
        "grouping": {
            "by": grouping.by,
            "tasks": {name: _task_facts(name, grouping.labels, rows, labels) for name in grouping.names},
        },
    }
    record["gradients"] = _gradients(recipe, stage, adapter, chosen, labels, grouping, batch, progress)
    record |= _short_runs(recipe, stage, grouping, steps, folder, adapter, jobs, progress)
    record |= {"run": None if run is None else str(run), "missing": []}
    if not probes_wanted:
        record["missing"].append("weight changes and what sharing costs: need --steps")
    if run is None:
        record["missing"] += [
            f"{what}: needs --run"
            for what in ("contexts", "routing", "gaze", "swapped questions", "gradient agreement in training")
        ]
    else:
        from yarbus.studies.diagnose import INDEX, diagnose

        analysis = diagnose(run, progress=progress)
        record["missing"] += [f"{what}: {why}" for what, why in read_json(analysis / INDEX)["missing"].items()]
    record["advice"] = advise(record, _swapped(run))
    write_json(folder / RECORD, record)
    write_report(folder)
    return folder


def _swapped(run: str | Path | None) -> dict[str, Any] | None:
    path = None if run is None else Path(run) / "analysis" / "swapped.json"
    return read_record(path) if path is not None and path.is_file() else None


def _labels(rows: Sequence[Any], labels: Sequence[str], chosen: Sequence[Any]) -> list[str]:
    """The task of each chosen row."""
    of = {id(row): label for row, label in zip(rows, labels, strict=True)}
    return [of[id(row)] for row in chosen]


def _task_facts(name: str, labels: Sequence[str], rows: Sequence[Any], chosen: Sequence[str]) -> dict[str, Any]:
    mine = [row for row, label in zip(rows, labels, strict=True) if label == name]
    words = dict.fromkeys(turn.words for row in mine[:200] for turn in row.turns if turn.role == "user")
    return {"num_rows": len(mine), "num_samples": list(chosen).count(name), "examples": list(words)[:3]}


def _start(
    recipe: Recipe, stage: str, start: str | Path | None, folder: Path, progress: bool
) -> tuple[Path | None, str]:
    """The adapter from which the stage would begin, and how to say it; None is the base as it is."""
    if start is not None and str(start) != BASE:
        path = Path(start)
        if not (path / "adapter.json").is_file():
            raise ConfigError("not an adapter", where=path, why="it has no adapter.json", fix="name a run's adapter/")
        return path, str(start)
    before = None if start is not None else _work_before(recipe, stage, folder)
    if before is None:
        return None, "the base model as it is"
    work_off([before], {}, 1, progress)
    return before.run / "adapter", f"after stage {before.stages[-1]} ({before.label})"


def _check_probes(recipe: Recipe, stage: str, grouping: Any) -> None:
    """Raises before any work for what the short runs would need."""
    from yarbus.studies.probes import plan_probes

    plan_probes(recipe, stage, grouping, 1, Path(), None)


def _gradients(
    recipe: Recipe,
    stage: str,
    adapter: Path | None,
    chosen: Sequence[Any],
    labels: Sequence[str],
    grouping: Any,
    batch: int,
    progress: bool,
) -> dict[str, Any]:
    """Gradients at the stage's beginning, of batches that hold one task each."""
    from yarbus.analysis.gradients import agreement, block_products
    from yarbus.evaluation.progress import progress_of
    from yarbus.methods.assemble import load_adapter
    from yarbus.models.load import load_base
    from yarbus.studies.measuring import batches_of, numbered, on_device

    model, processor = load_base(recipe.model.base)
    if adapter is not None:
        model, processor = load_adapter(model, processor, adapter)
    model = on_device(model)
    by_task = {
        name: numbered([row for row, label in zip(chosen, labels, strict=True) if label == name])
        for name in grouping.names
    }
    owners: list[str] = []
    # Whole batches only: a smaller one is noisier, and every batch must count the same.
    whole = {name: rows[: len(rows) // batch * batch] for name, rows in by_task.items()}
    for name, rows in whole.items():
        if len(rows) < MIN_BATCHES * batch:
            raise ConfigError(
                f"task '{name}' has {len(by_task[name])} rows",
                why=f"the same-task control needs {MIN_BATCHES} batches of {batch}",
                fix="use a smaller batch, or leave the task out",
            )
    total = sum(map(len, whole.values()))
    with progress_of("gradients", total, progress) as advance:

        def batches() -> Any:
            for name, rows in whole.items():
                for one in batches_of(rows, processor, recipe, batch):
                    owners.append(name)
                    yield one
                    advance(batch)

        products = block_products(model, batches(), recipe.stages[stage].precision)
    shares = {name: grouping.labels.count(name) / len(grouping.labels) for name in grouping.names}
    return agreement(products, owners, batch=batch, shares=shares, seed=recipe.seed)


def _short_runs(
    recipe: Recipe,
    stage: str,
    grouping: Any,
    steps: int | None,
    folder: Path,
    adapter: Path | None,
    jobs: int | None,
    progress: bool,
) -> dict[str, Any]:
    if steps is None:
        return {"drift": None, "gap": None}
    from yarbus.models.load import load_base
    from yarbus.models.vlm import VLM
    from yarbus.studies.probes import drift_record, gap_record, plan_probes

    probes = plan_probes(recipe, stage, grouping, steps, folder, adapter)
    work_off([probe.work for probe in probes.runs], {}, jobs or min(cores(), len(probes.runs)), progress)
    base, _ = load_base(recipe.model.base)
    own = recipe.stages[stage]
    return {
        "drift": drift_record(probes, VLM.of(base)),
        "gap": gap_record(probes, recipe, own.precision, own.micro_batch or own.batch),
    }
