"""Why a trained run does what it does: the records of ``RUN/analysis``, made from the run and its recipe alone.

What a run cannot show is listed with the reason and what it would need, in ``index.json``; nothing is ever drawn
from a router that was not trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from yarbus.analysis.agreement import agreement
from yarbus.analysis.contexts import contexts_record
from yarbus.analysis.gaze import gaze_record
from yarbus.analysis.routing import routing_record
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.progress import progress_of
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import make_folder, write_json
from yarbus.data.grouping import choose, group_samples
from yarbus.data.mixture import read_mixture
from yarbus.data.sample import Sample
from yarbus.methods.covft import mixtures_of
from yarbus.models.load import load_base
from yarbus.models.observe import Observed, observe
from yarbus.studies.measuring import batches_of, numbered, on_device, questions_of
from yarbus.studies.mixing import mixing_head, mixing_weights
from yarbus.studies.swapped import swapped_questions
from yarbus.training.run import load_run
from yarbus.training.stages import begin_stage

INDEX = "index.json"
SIMILARITIES = ("pearson", "spearman", "pearson_centred", "spearman_centred")
NEEDS_ROUTER = "the run has no router: train with vision: {method: covft, ...} and more than one routed expert"
NO_BENCHMARKS = "the recipe names no benchmarks"
NEEDS_GRADIENTS = "no gradients were recorded: train with record: {vision_gradient: {every: K}}"


def diagnose(
    run: str | Path,
    *,
    samples: int = 1000,
    questions: int = 120,
    batch: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Writes ``analysis/*.json`` of a finished run and returns that folder.

    Args:
        run: the run's folder. Its recipe names data and benchmarks.
        samples: training rows, spread evenly over tasks, on which contexts, routing and gaze are observed.
        questions: benchmark questions per task for the swapped-question test, and for a CARPE head's weights.

    Raises:
        ConfigError: the folder is no run of a recipe.
        CheckpointError: the run has not finished.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise ConfigError("not a run", where=run, why="it has no recipe.yaml", fix="name the folder of a trained run")
    recipe = load_recipe(run / "recipe.yaml")
    folder = run / "analysis"
    made: list[str] = []
    missing: dict[str, str] = {}

    def keep(name: str, record: dict[str, Any]) -> None:
        make_folder(folder)
        write_json(folder / f"{name}.json", record)
        made.append(name)

    stage = _last_recorded(run, recipe)
    if stage is None:
        missing["agreement"] = NEEDS_GRADIENTS
    else:
        with _told(missing, "agreement"):
            keep("agreement", agreement(run, stage))
    model, processor = load_run(run)
    model = on_device(model)
    if mixing_head(model) is not None:
        if not recipe.evaluation:
            missing["mixing"] = NO_BENCHMARKS
        else:
            with _told(missing, "mixing"):
                record = mixing_weights(
                    model, processor, recipe.evaluation, per_task=questions, batch=batch, seed=seed, progress=progress
                )
                keep("mixing", record)
    if not mixtures_of(model):
        missing |= dict.fromkeys(("contexts", "routing", "gaze", "swapped"), NEEDS_ROUTER)
    else:
        _observed(model, processor, recipe, samples, batch, seed, keep, missing, progress)
        if not recipe.evaluation:
            missing["swapped"] = NO_BENCHMARKS
        elif getattr(processor, "context_tokenizer", None) is None:
            missing["swapped"] = NEEDS_ROUTER
        else:
            names = recipe.evaluation
            with _told(missing, "swapped"):
                keep(
                    "swapped",
                    swapped_questions(model, processor, names, per_task=questions, batch=batch, progress=progress),
                )
    make_folder(folder)
    write_json(
        folder / INDEX, {"made": made, "missing": missing, "samples": samples, "questions": questions, "seed": seed}
    )
    return folder


@contextmanager
def _told(missing: dict[str, str], *parts: str) -> Iterator[None]:
    """What the run's records or data are too few for is missing, and said so; the other parts are made all the same."""
    try:
        yield
    except (ConfigError, DataError) as error:
        missing |= dict.fromkeys(parts, f"{error.what}, {error.why}" if error.why else error.what)


def _last_recorded(run: Path, recipe: Recipe) -> str | None:
    """The last stage with recorded gradients."""
    stages = [name for name in recipe.stages if any((run / "stages" / name / "gradients").glob("step-*.safetensors"))]
    return stages[-1] if stages else None


def _observed(
    model: Any,
    processor: Any,
    recipe: Recipe,
    samples: int,
    batch: int,
    seed: int,
    keep: Callable[[str, dict[str, Any]], None],
    missing: dict[str, str],
    progress: bool,
) -> None:
    """Contexts, routing and gaze on rows of the last stage that the run trained on."""
    rows = read_mixture(list(recipe.stages.values())[-1].used_data)
    grouping = None
    with _told(missing, "contexts", "routing", "gaze"):
        grouping = group_samples(rows)
    if grouping is None:
        return
    chosen = choose(rows, grouping, max(1, samples // len(grouping.names)), seed, share_pictures=True)
    label_of = dict(zip(map(id, rows), grouping.labels, strict=True))
    labels = [label_of[id(row)] for row in chosen]
    chosen = numbered(chosen)
    observed = _look(model, processor, recipe, chosen, batch, f"observe {recipe.name}", progress)
    untrained = _look(*_untrained(recipe), recipe, chosen, batch, "observe it untrained", progress)
    # Images by what the tower saw before it was tuned: clusters of contexts should not be judged by their own effect.
    observed = replace(observed, features=untrained.features)
    by_id = {row.id: row for row in chosen}
    task_of = {row.id: label for row, label in zip(chosen, labels, strict=True)}
    told = questions_of(chosen, recipe)
    more: dict[str, Any] = {"questions": told, "seed": seed}
    if observed.contexts:
        record = contexts_record(observed, by_id, task_of, by=grouping.by, **more)
        fresh = contexts_record(untrained, by_id, task_of, by=grouping.by, **more)
        kept = {
            "context": ("k", "silhouette", "mutual_information"),
            "routing_similarity": (*SIMILARITIES, "num_pairs"),
        }
        record["untrained"] = {part: {key: fresh[part][key] for key in keys} for part, keys in kept.items()}
        keep("contexts", record)
        gaze = gaze_record(model, processor, observed, by_id, task_of, **more)
        if gaze is None:
            missing["gaze"] = "the context is the question alone, nothing looks at the picture"
        else:
            keep("gaze", gaze)
    else:
        missing |= dict.fromkeys(("contexts", "gaze"), NEEDS_ROUTER)
    keep("routing", routing_record(model, observed, by_id, task_of, untrained=untrained, seed=seed))


def _look(
    model: Any, processor: Any, recipe: Recipe, rows: list[Sample], batch: int, name: str, progress: bool
) -> Observed:
    with progress_of(name, len(rows), progress) as advance:

        def batches() -> Iterator[dict[str, Any]]:
            for one in batches_of(rows, processor, recipe, batch):
                yield one
                advance(len(one["sample_ids"]))

        return observe(model, batches())


def _untrained(recipe: Recipe) -> tuple[Any, Any]:
    """The model with what its stages attach, untrained: a router of random weights already tells tasks apart by words.

    New tensors are those that the run began with; what earlier stages trained is the base's.
    """
    model, processor = load_base(recipe.model.name)
    for stage in recipe.stages:
        begin_stage(model, processor, recipe, stage)
    return on_device(model), processor
