"""Short runs that ask directly: does a task do better with the tower to itself, and does tuning the tower help at all?

For each task a run on its rows alone, one run on the mixture with the tower tuned and one with it frozen, each under
two seeds, all from the same start. A task alone gets as many steps as hold as many of its questions as the mixture's
run does: *equal questions*. A tenth of each task's rows is kept out of all runs, and the losses are taken there. The
mixture may have trained on another task's question about the same picture: what it learns from that is part of sharing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from yarbus.analysis.drift import Change, drift
from yarbus.analysis.losses import paired_gap, row_losses
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.progress import progress_of
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.sections import DataSection
from yarbus.data.grouping import Grouping
from yarbus.data.mixture import held_out, read_section
from yarbus.data.sample import Sample
from yarbus.models.vlm import VLM
from yarbus.studies.measuring import batches_of, numbered, on_device, picture_of
from yarbus.studies.work import Work
from yarbus.training.planning import plan_recipe
from yarbus.training.run import load_run

TRAINED_SHARE = 0.9
PROBES = "probes"
MIX, FROZEN, ALONE = "mix", "frozen", "only"
MAX_HELD_OUT = 256
"""Held-out rows per task."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One short run."""

    kind: str
    """``mix`` or ``frozen``: the mixture with the tower tuned or frozen; ``only``: one task, the tower tuned."""
    task: str | None
    """The one task it trains on; None for the mixture."""
    seed: int
    work: Work


@dataclass(frozen=True, kw_only=True)
class Probes:
    """All short runs of a study, and the rows that none of them trains on."""

    stage: str
    steps: int
    rate: float
    runs: tuple[Probe, ...]
    held_out: Mapping[str, list[Sample]]
    """By task."""


def sections_by_task(sections: Sequence[DataSection], grouping: Grouping) -> dict[str, list[DataSection]]:
    """Data entries that hold the rows of one task and no others; ``grouping`` is of the sections' rows in order."""
    found: dict[str, list[DataSection]] = {name: [] for name in grouping.names}
    labels = iter(grouping.labels)
    for section in sections:
        tasks: dict[str, set[str | None]] = {}
        for row in read_section(section):
            tasks.setdefault(next(labels), set()).add(row.task)
        tasks.pop("", None)  # rows without a picture go with the others of their entry
        for label, named in tasks.items():
            if len(tasks) == 1:
                found[label].append(section)
            elif section.share is not None:
                raise ConfigError(
                    "short runs need one task in a data entry with a share",
                    where=section.path,
                    why=f"it holds {', '.join(tasks)}",
                    fix="give each task an entry of its own, with its part of the share",
                )
            elif named == {label}:
                found[label].append(section.model_copy(update={"task": label}))
            else:
                raise ConfigError(
                    "short runs need rows that can be told apart",
                    where=section.path,
                    why=f"'{label}' is a {grouping.by} inside this entry, which no data entry can select",
                    fix="give the rows a 'task', or each task a file of its own",
                )
    return found


def _held_out(by_task: Mapping[str, Sequence[DataSection]]) -> dict[str, list[Sample]]:
    """Rows by task that no short run trains on, taken evenly from all of a task's entries."""
    found = {}
    for task, sections in by_task.items():
        rows = [row for section in sections for row in held_out(section, TRAINED_SHARE)]
        if not rows:
            raise DataError(
                f"task '{task}' has too few rows for short runs",
                where=sections[0].path,
                why=f"{1 - TRAINED_SHARE:.0%} of them are kept out of training to measure on, and that is none",
                fix="add rows, leave the task out, or measure gradients alone, without steps",
            )
        number = min(len(rows), MAX_HELD_OUT)
        found[task] = [rows[place * len(rows) // number] for place in range(number)]
    return found


def _shown(by_task: Mapping[str, Sequence[DataSection]], counts: Mapping[str, Sequence[int]]) -> dict[str, int | float]:
    """How often the mixture shows each task, in any unit; ``counts`` are the rows of each section."""
    pairs = {task: list(zip(some, counts[task], strict=True)) for task, some in by_task.items()}
    shares = {task: sum(section.share or 0 for section, _ in some) for task, some in pairs.items()}
    others = {task: sum(rows for section, rows in some if section.share is None) for task, some in pairs.items()}
    if not any(shares.values()):
        return dict(others)
    rest = (1 - sum(shares.values())) / sum(others.values())
    return {task: shares[task] + rest * others[task] for task in pairs}


def equal_questions(counts: Mapping[str, int | float], steps: int) -> dict[str, int]:
    """Steps after which a task alone has seen as many of its questions as the mixture shows of them in ``steps``."""
    total = sum(counts.values())
    return {task: max(1, round(steps * count / total)) for task, count in counts.items()}


def plan_probes(
    recipe: Recipe, stage: str, grouping: Grouping, steps: int, folder: Path, start: Path | None, seeds: int = 2
) -> Probes:
    """The short runs below ``folder/probes``; nothing is trained yet. ``steps`` are those of the mixture's run.

    Raises:
        ConfigError: the stage has no rate for vision or trains nothing else, the tower holds another method already,
            or a task's rows cannot be selected.
        DataError: a task has too few rows to keep some out.
    """
    own = recipe.stages[stage]
    if "vision" not in own.peaks:
        raise ConfigError(
            f"stage '{stage}' has no learning rate for vision", why="short runs tune the tower", fix="add one"
        )
    frozen = {place: method for place, method in own.train.items() if place != "vision"}
    if not frozen:
        raise ConfigError(
            f"stage '{stage}' trains the tower alone",
            why="short runs compare with a frozen tower, and then nothing would train",
            fix="train the projector or the language model too, or measure gradients alone, without steps",
        )
    by_task = sections_by_task(own.used_data, grouping)
    rest = _held_out(by_task)
    kept = {
        task: [section.model_copy(update={"fraction": section.fraction * TRAINED_SHARE}) for section in sections]
        for task, sections in by_task.items()
    }
    counts = {task: [len(read_section(section)) for section in sections] for task, sections in kept.items()}
    lengths = equal_questions(_shown(kept, counts), steps)
    mixed = [section for sections in kept.values() for section in sections]
    tuned = {**own.train, "vision": {"method": "full"}}
    words = _words(list(kept))
    runs = []
    for seed in range(recipe.seed, recipe.seed + seeds):
        for kind, train in ((MIX, tuned), (FROZEN, frozen)):  # the longest first: several run at a time
            one = _recipe(recipe, stage, f"{kind}-seed{seed}", seed, train, mixed, steps)
            if seed == recipe.seed:
                plan_recipe(one)  # refuses now what would stop a worker later
            runs.append(Probe(kind=kind, task=None, seed=seed, work=_work(one, stage, folder, start)))
        for task, sections in kept.items():
            sections = [section.model_copy(update={"share": None}) for section in sections]
            one = _recipe(recipe, stage, f"{ALONE}-{words[task]}-seed{seed}", seed, tuned, sections, lengths[task])
            runs.append(Probe(kind=ALONE, task=task, seed=seed, work=_work(one, stage, folder, start)))
    return Probes(stage=stage, steps=steps, rate=own.peaks["vision"], runs=tuple(runs), held_out=rest)


def _words(names: Sequence[str]) -> dict[str, str]:
    """Names as folders can have them, no two alike."""
    found: dict[str, str] = {}
    for name in names:
        letters = (letter if letter.isascii() and (letter.isalnum() or letter in "_.+-") else "_" for letter in name)
        word = plain = "".join(letters)[:60]
        times = 1
        while word.lower() in {other.lower() for other in found.values()}:
            times += 1
            word = f"{plain}.{times}"
        found[name] = word
    return found


def _recipe(
    recipe: Recipe,
    stage: str,
    label: str,
    seed: int,
    train: Mapping[str, Any],
    sections: Iterable[DataSection],
    steps: int,
) -> Recipe:
    """The recipe up to the stage, which trains something else on other rows for so many steps."""
    values = recipe.resolved()
    names = list(values["stages"])
    own = {
        **values["stages"][stage],
        "train": dict(train),
        "data": [section.model_dump() for section in sections],
        "fraction": 1.0,  # the sections have it already
        "steps": steps,
        "epochs": None,
        "checkpoint_every": None,
    }
    stages = {name: values["stages"][name] for name in names[: names.index(stage)]} | {stage: own}
    return load_recipe(
        {**values, "name": label, "seed": seed, "stages": stages, "evaluation": [], "compare": None, "record": {}}
    )


def _work(recipe: Recipe, stage: str, folder: Path, start: Path | None) -> Work:
    assert recipe.name is not None
    run = folder / PROBES / recipe.name
    return Work(label=recipe.name, recipe=recipe.resolved(), run=run, start=start, stages=(stage,), benchmarks=())


def drift_record(probes: Probes, start: VLM) -> dict[str, Any]:
    """Cosine and distance of the single-task runs' weight changes from ``start``, the model they all began from."""
    before = dict(start.model.named_parameters())
    paths = start.block_paths()
    by_block: dict[int, list[Change]] = {}
    for index in start.executed_blocks(0):
        names = [name for name in before if name.startswith(f"{paths[index]}.")]
        changes = []
        for probe in probes.runs:
            if probe.task is None:
                continue
            with safe_open(probe.work.run / "adapter" / "adapter.safetensors", framework="pt") as tensors:
                moved = [tensors.get_tensor(name).float() - before[name].detach().float().cpu() for name in names]
            delta = np.concatenate([one.flatten().numpy() for one in moved])
            changes.append(Change(task=probe.task, seed=probe.seed, delta=delta))
        by_block[index] = changes
    return drift(by_block, steps=probes.steps, rate=probes.rate)


def gap_record(probes: Probes, recipe: Recipe, progress: bool = False) -> dict[str, Any]:
    """Held-out losses: the mixture's run minus the task's own (``gap``), frozen minus tuned on the mixture (``gain``).

    Positive ``gap``: sharing the tower costs this task. Positive ``gain``: tuning the tower helps it. Nats per token.
    """
    own = recipe.stages[probes.stage]
    rows = {task: numbered(some) for task, some in probes.held_out.items()}
    groups = {task: {row.id: picture_of(row) for row in some} for task, some in rows.items()}
    # Kind and task -> the losses of each seed.
    losses: dict[tuple[str, str], list[dict[str, float]]] = {}
    total = sum(len(rows[task]) for probe in probes.runs for task in ([probe.task] if probe.task else rows))
    with progress_of("held-out losses", total, progress) as advance:
        for probe in probes.runs:
            model, processor = load_run(probe.work.run)
            model = on_device(model)
            for task in [probe.task] if probe.task else rows:
                batches = batches_of(rows[task], processor, recipe, own.micro_batch or own.batch)
                losses.setdefault((probe.kind, task), []).append(row_losses(model, batches, own.precision))
                advance(len(rows[task]))

    def mean(kind: str, task: str) -> float:
        return float(np.mean([value for one in losses[kind, task] for value in one.values()]))

    return {
        "unit": "nats per answer token, held-out rows",
        "steps": probes.steps,
        "seeds": len({probe.seed for probe in probes.runs}),
        "tasks": {
            task: {
                "num_rows": len(some),
                "alone": mean(ALONE, task),
                "mix": mean(MIX, task),
                "frozen": mean(FROZEN, task),
                "gap": paired_gap(losses[MIX, task], losses[ALONE, task], groups[task]),
                "gap_by_seed": [
                    float(np.mean([one[name] - other[name] for name in one]))
                    for one, other in zip(losses[MIX, task], losses[ALONE, task], strict=True)
                ],
                "gain": paired_gap(losses[FROZEN, task], losses[MIX, task], groups[task]),
            }
            for task, some in rows.items()
        },
    }
