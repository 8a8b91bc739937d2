"""One run of a study, as a worker process gets it, and the doing of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarbus.core.lock import locked
from yarbus.core.recipe import Recipe, load_recipe, stage_hash
from yarbus.core.records import read_record, write_json
from yarbus.core.sections import ModelSection, scaled_steps
from yarbus.evaluation.folder import benchmark_folder
from yarbus.report.runs import SHARING


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run, as a worker process gets it."""

    label: str
    recipe: dict[str, Any]
    run: Path
    start: Path | None
    """Adapter that the run begins from."""
    stages: tuple[str, ...]
    benchmarks: tuple[str, ...]
    batch: int = 64
    """Questions per evaluation batch."""
    checkpoints: tuple[int, ...] = ()
    """Steps of the last stage at which the benchmarks are asked too, besides the end."""
    diagnosis: dict[str, int] | None = None
    """Sizes with which the run's ``analysis/`` is made; None makes none."""
    threads: int = 1
    """Of torch, while it runs."""
    jobs: int | None = None
    """Runs that share the machine while it trains; None where nobody knows."""

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the run; None where epochs decide."""
        stages = [self.recipe["stages"][stage] for stage in self.stages]
        counts = [scaled_steps(stage["steps"], stage.get("fraction", 1.0)) for stage in stages]
        return sum(count for count in counts if count is not None) if None not in counts else None

    @property
    def base(self) -> str:
        """The name of what it starts from."""
        return ModelSection.model_validate(self.recipe["model"]).name

    @property
    def places(self) -> list[str]:
        """Names of the folders below ``evaluation/``: the finished model's, then those of its checkpoints."""
        return ["final", *map(checkpoint_name, self.checkpoints)]

    @property
    def adapter(self) -> Path:
        """What it leaves for others to start from."""
        return self.run / "adapter"

    def is_trained(self) -> bool:
        return (self.adapter / "adapter.json").is_file()

    def is_finished(self) -> bool:
        """Whether the run is trained and every question of every benchmark has a reply."""
        scores = [
            benchmark_folder(self.run, name, "official", place) / "scores.json"
            for name in self.benchmarks
            for place in self.places
        ]
        diagnosed = self.diagnosis is None or (self.run / "analysis" / "index.json").is_file()
        return (
            self.is_trained()
            and diagnosed
            and all(path.is_file() and _is_complete(read_record(path)) for path in scores)
        )


def checkpoint_name(step: int) -> str:
    """The folder of evaluations after so many steps."""
    return f"step-{step:06d}"


def _is_complete(scores: Mapping[str, Any]) -> bool:
    return scores["num_replies"] == scores["num_samples"] and not scores["num_errors"]


def shared_start(recipe: Recipe, folder: Path) -> Work | None:
    """The run of every stage before the last, which all recipes that agree on those start from; None with one stage.

    It holds nothing of what only its variants need, so that any of them finds it equal.
    """
    *shared, _ = recipe.stages
    if not shared:
        return None
    name = f"{shared[-1]}-{stage_hash(recipe, shared[-1])}"
    values = recipe.resolved()
    values |= {"name": name, "stages": {stage: values["stages"][stage] for stage in shared}, "evaluation": []}
    return Work(label=name, recipe=values, run=folder / name, start=None, stages=tuple(shared), benchmarks=())


def do(work: Work) -> None:
    """Trains and evaluates one run. Runs in a worker, without progress of its own.

    Raises:
        LockedError: another call is at the same run.
    """
    with locked(work.run):
        _do(work)


def _do(work: Work) -> None:
    import torch

    from yarbus.evaluation.runner import evaluate
    from yarbus.training.run import load_checkpoint, load_run
    from yarbus.training.stages import train

    torch.set_num_threads(work.threads)
    quieten()
    note_sharing(work)
    train(load_recipe(work.recipe), work.run, start=work.start, stages=work.stages, progress=False)
    if work.benchmarks:
        model, processor = load_run(work.run)
        evaluate(model, processor, list(work.benchmarks), work.run, batch=work.batch, progress=False)
        for step in work.checkpoints:
            model, processor = load_checkpoint(work.run, step)
            place = checkpoint_name(step)
            evaluate(
                model, processor, list(work.benchmarks), work.run, checkpoint=place, batch=work.batch, progress=False
            )
    if work.diagnosis is not None and not (work.run / "analysis" / "index.json").is_file():
        from yarbus.studies.diagnose import diagnose

        diagnose(work.run, progress=False, **work.diagnosis)


def note_sharing(work: Work) -> None:
    """Writes into the run's own folder how the machine is shared while it trains; a resumed run adds what is new."""
    from yarbus.training.folder import has_progress

    if work.jobs is None or work.is_trained():
        return
    path = work.run / SHARING
    before = read_record(path) if path.is_file() and has_progress(work.run) else {}
    now = {"jobs": work.jobs, "threads": work.threads}
    write_json(path, {key: sorted({*before.get(key, []), value}) for key, value in now.items()})


def quieten() -> None:
    """The libraries' own bars and notices would tear up the one line that says how far the comparison is."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
