"""The configuration-aligned comparison: same base, projector, data order and steps, one difference.

A comparison is a folder of runs. Stages before the last are trained once per distinct set-up (their
hash names the folder) and every variant starts from them: all from one, or, where a method brings a
projector of its own, those with the same projector from one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yarbus.core.errors import ConfigError, UserError
from yarbus.core.recipe import Recipe, load_recipe, variant
from yarbus.core.records import make_folder, read_record, write_json
from yarbus.report.html import write_report
from yarbus.report.runs import SHARING, read_comparison
from yarbus.report.summary import summarise
from yarbus.report.tables import to_json
from yarbus.studies.alignment import check_recipes, check_runs, refuse_other_data
from yarbus.studies.variants import choose
from yarbus.studies.work import Work, quieten, shared_start
from yarbus.studies.workers import default_jobs, work_off

RECORD = "comparison.json"


def _plan(
    recipe: Recipe,
    seeds: int,
    folder: Path,
    checkpoints: tuple[int, ...] = (),
    diagnose: Mapping[str, int] | None = None,
) -> tuple[list[Work], dict[str, str], dict[str, dict[str, Any]]]:
    """The works of a comparison, which must wait for which, and its runs as the record names them."""
    assert recipe.compare is not None
    works: dict[str, Work] = {}
    after: dict[str, str] = {}
    runs: dict[str, dict[str, Any]] = {}
    for seed in range(recipe.seed, recipe.seed + seeds):
        for name in recipe.compare.variants:
            one = variant(recipe, name)
            label, start = f"{name}-seed{seed}", shared_start(one, folder)
            if start is not None:
                works.setdefault(start.label, start)
                after[label] = start.label
            works[label] = Work(
                label=label, recipe={**one.resolved(), "seed": seed, "name": label}, run=folder / label,
                start=None if start is None else start.adapter, stages=(list(one.stages)[-1],),
                benchmarks=tuple(one.evaluation), checkpoints=checkpoints,
                diagnosis=None if diagnose is None else dict(diagnose),
            )  # fmt: skip
            runs[label] = {"variant": name, "seed": seed, "folder": label, "start": after.get(label)}
    return list(works.values()), after, runs


def _refuse_lost_checkpoints(work: Work) -> None:
    """Raises where a checkpoint that the benchmarks shall be asked at would not be there after training."""
    stage = load_recipe(work.recipe).stages[work.stages[-1]]
    steps = stage.num_steps
    if steps is None:  # only the worker, which reads the data, knows how many steps the epochs are
        return
    every = min(stage.checkpoint_every or steps, steps)
    kept = sorted({*range(every, steps + 1, every), steps})[-stage.keep_checkpoints :]
    if lost := [step for step in work.checkpoints if step not in kept]:
        raise ConfigError(
            f"'{work.label}' would keep no checkpoint of step {lost[0]}",
            why=f"of its {steps} steps it keeps {', '.join(map(str, kept))}",
            fix=f"change checkpoint_every and keep_checkpoints of stage '{work.stages[-1]}', or ask at one of these",
        )


@contextmanager
def _told_with(label: str) -> Iterator[None]:
    """Errors name the run that they concern."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"'{label}': {error.what}", where=error.where, why=error.why, fix=error.fix) from None


def check_works(recipe: Recipe, works: Sequence[Work], folder: Path) -> None:
    """Raises before any work for what would otherwise stop it in the middle, or mix it with other runs."""
    # Here, not above: torch takes seconds, and a wrong name should be told at once.
    from yarbus.studies.earlier import refuse_another
    from yarbus.training.planning import check_inputs, plan_recipe

    quieten()
    refuse_another(recipe, works, folder)
    checked: list[Any] = []
    for work in works:
        settings = ({**work.recipe, "name": None, "seed": 0}, work.is_trained() or work.stages)
        if not work.is_finished() and settings not in checked:  # seeds of one variant need the same
            with _told_with(work.label):
                check_inputs(load_recipe(work.recipe), () if work.is_trained() else work.stages)
                plan_recipe(load_recipe(work.recipe))
            if not work.is_trained():
                _refuse_lost_checkpoints(work)
            checked.append(settings)
    refuse_other_data(works)


def _keep_jobs(folder: Path) -> None:
    """Puts how many runs shared the machine, which records once held for all, beside the runs that this is true of."""
    runs = read_record(folder / RECORD).get("runs", {}) if (folder / RECORD).is_file() else {}
    for label, run in runs.items():
        place = folder / str(run.get("folder", label))
        environment = place / "environment.json"
        if run.get("jobs") and environment.is_file() and not (place / SHARING).exists():
            threads = (read_record(environment).get("machine") or {}).get("threads")
            write_json(place / SHARING, {"jobs": [run["jobs"]], "threads": [threads] if threads else []})


def compare(
    recipe: Recipe | str | Path | Mapping[str, Any],
    variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    seeds: int = 1,
    folder: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = True,
    command: str | None = None,
    note: str | None = None,
    checkpoints: Sequence[int] = (),
    diagnose: Mapping[str, int] | None = None,
) -> Path:
    """Trains and evaluates every variant under every seed from the same start, and writes the report.

    Variants may differ in what the last stage trains and how fast, in a projector of their own with its align stage,
    and in what the recipe's ``compare.differs`` names; any other difference is refused by name. A call goes on where
    an earlier one stopped, run by run; what is finished is never repeated.

    Args:
        recipe: a recipe, or what ``load_recipe`` takes.
        variants: names of the recipe's ``compare.variants``, or name -> {dotted path: value}; None is all of its own.
        seeds: training seeds from the recipe's ``seed`` on. They decide new tensors, dropout and data order.
        folder: where the runs go; None is ``comparisons/<recipe's name>``. An existing one is continued.
        jobs: runs at a time, which share out the cores: each has ``cores // jobs`` threads, at least one. None is one
            run per core, at most as many as there are variants and seeds; with an accelerator one. Runs are equal bit
            for bit for equal numbers of threads, which ``environment.json`` records.
        command: what the report names as its origin. ``note``: a sentence for the report.
        checkpoints: steps of the last stage at which the benchmarks are asked too; their checkpoints must be kept.
        diagnose: sizes for ``yarbus.studies.diagnose``, such as ``{"samples": 1000}``: each run's contexts, routing,
            gaze, swapped questions and gradients are then looked into; None leaves that out.

    Returns:
        The folder: ``comparison.json`` with what was compared and found, one run per variant and seed,
        ``report/index.html``.

    Raises:
        ConfigError: variants differ in more than what is compared.
        DataError: training rows or a benchmark are not what finished runs had.
        LockedError: another call is at one of the runs.
        MismatchError: runs that should have seen the same data, base, start or questions did not.
        UserError: of the first run that failed; the others are kept and the same call goes on from there.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}", fix="compare at least one seed")
    recipe = choose(recipe, variants)
    folder = Path(folder) if folder is not None else Path("comparisons") / (recipe.name or "comparison")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the comparison is a file, not a folder", where=folder, fix="name another folder")
    alignment = check_recipes(recipe)
    works, after, runs = _plan(recipe, seeds, folder, tuple(checkpoints), diagnose)
    assert recipe.compare is not None
    check_works(recipe, works, folder)
    make_folder(folder)
    jobs = jobs or default_jobs(len(runs))
    _keep_jobs(folder)
    record = {
        "recipe": recipe.resolved(),
        "variants": list(recipe.compare.variants),
        "seeds": list(range(recipe.seed, recipe.seed + seeds)),
        "runs": runs,
        "command": command or f"yarbus.compare({recipe.name!r}, seeds={seeds})",
        "tasks": recipe.evaluation,
        "note": note,
        "beside": recipe.compare.beside,
        "alignment": alignment,
    }
    write_json(folder / RECORD, record)
    work_off(works, after, jobs, progress)
    alignment |= check_runs(works)
    write_json(folder / RECORD, record)
    found = read_comparison(folder)
    results = to_json(found, summarise(found))
    write_json(folder / RECORD, {**record, "results": {k: v for k, v in results.items() if k != "alignment"}})
    write_report(folder)
    return folder
