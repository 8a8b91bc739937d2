"""Proof that what should have trained did, and that it reloads: of a model in memory, or of a finished run.

A run keeps what is needed: its recipe makes the start state again (new tensors are seeded by stage), the last
checkpoint is what training left, and ``adapter/`` is what was published. The last two must give equal logits.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.analysis.audit import (
    Audit,
    Check,
    check_equal,
    check_gradients,
    check_movement,
    check_rates,
    logits_of,
    movement,
)
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import make_folder, read_jsonl, read_record, write_json
from yarbus.data.mixture import mix
from yarbus.data.sample import Sample
from yarbus.methods.assemble import load, load_adapter
from yarbus.methods.lora import fold
from yarbus.models.attachment import (
    adapter_tensors,
    attachment_of,
    load_adapter_tensors,
    parameter_groups,
)
from yarbus.models.load import load_base
from yarbus.models.save import save
from yarbus.studies.export import foldable
from yarbus.training import checkpoint
from yarbus.training.folder import run_identity
from yarbus.training.guarded import WEIGHTS
from yarbus.training.run import load_run
from yarbus.training.snapshot import load_tensors
from yarbus.training.stages import begin_stage, stage_collator

RECORD = "audit.json"
ROWS = 4
"""Training rows that the gradients and logits are taken on."""


def audit(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    processor: Any = None,
    reload: bool = True,
    has_trained: bool = False,
) -> Audit:
    """Whether all that should train has a gradient, reloads to equal logits and folds to equal logits.

    Changes nothing: weights, gradients, modes and random generators are afterwards as before. ``print`` shows a table.

    Args:
        model: with something attached that trains.
        batch: as the processor makes it, with a picture; ``labels`` are its tokens if it has none.
        optimizer: if given, every tensor that trains must be in it, at a rate above zero.
        processor: the one that ``attach`` returned; saved with the model where ``reload`` asks for that.
        reload: save the whole model to a temporary folder and load it. It takes the model's size on the disk and in
            memory; without a processor it is left out.
        has_trained: the model is past its first steps, so that gradients that are zero at the start alone
            (``Method.silent``) are faults.
    """
    names = [name for group in parameter_groups(model).values() for name in group]
    if not names:
        raise ConfigError("nothing trains in this model", fix="attach a method that trains something")
    checks = [check_gradients(model, batch, names, has_trained=has_trained)]
    if optimizer is not None:
        checks.append(check_rates(model, names, optimizer))
    if reload and processor is not None:
        checks.append(_check_whole(model, processor, batch))
    checks.append(check_folding(model, batch))
    return Audit(checks=tuple(checks))


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _check_whole(model: nn.Module, processor: Any, batch: Mapping[str, Any]) -> Check:
    """Saves the model, loads it from the disk, and compares logits."""
    expected, device = logits_of(model, batch), next(model.parameters()).device
    with TemporaryDirectory() as folder:
        save(model, processor, folder)
        again, _ = load(folder, dtype=_dtype(model))
        return check_equal("reload", expected, logits_of(again.to(device), batch), _dtype(model))


def check_folding(model: nn.Module, batch: Mapping[str, Any]) -> Check:
    """Whether folding a copy's low-rank updates into its weights leaves the logits as they are."""
    places = foldable(model)
    if not places:
        return Check(name="folding", verdict="not applicable", found="nothing holds a low-rank update")
    expected = logits_of(model, batch)
    return check_equal("folding", expected, logits_of(fold(copy.deepcopy(model)), batch), _dtype(model))


@dataclass(frozen=True)
class _States:
    """A run's model at its end, and the tensors that it began with."""

    model: nn.Module
    processor: Any
    start: dict[str, Tensor]
    stage: str
    """The last one that was trained."""
    notes: tuple[str, ...]


def _find_adapter(run: Path, sha256: str) -> Path | None:
    """The adapter that a run began from: a comparison keeps it beside its runs."""
    for path in sorted(run.parent.glob("*/adapter/adapter.json")):
        if read_record(path).get("sha256") == sha256:
            return path.parent
    return None


def _newest(run: Path, stage: str) -> Path | None:
    home = run / "stages" / stage / "checkpoints"
    return checkpoint.newest(home, run_identity(run)) if home.is_dir() else None


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in adapter_tensors(model).items()}


def _states(run: Path, recipe: Recipe, stages: Sequence[str], begins_from: str | None) -> _States:
    """Attaches stage by stage as training did, and notes each tensor as it was when its method came."""
    model, processor = load_base(recipe.model.name)
    notes: list[str] = []
    start: dict[str, Tensor] = {}
    if begins_from is not None:
        adapter = _find_adapter(run, begins_from)
        if adapter is None:
            notes.append(
                "the adapter that this run began from is not beside it: movement is told from the base, and of new "
                "tensors from another start"
            )
        else:
            model, processor = load_adapter(model, processor, adapter)
            start |= _trained_tensors(model)
    for stage in stages:
        begin_stage(model, processor, recipe, stage)
        start |= {name: tensor for name, tensor in _trained_tensors(model).items() if name not in start}
        newest = _newest(run, stage)
        if newest is not None:
            load_adapter_tensors(model, load_tensors(newest / WEIGHTS))
        elif stage == stages[-1]:
            raise CheckpointError(
                f"stage '{stage}' has no checkpoint",
                where=run,
                why="what training left cannot be compared with what was published",
                fix="train it again, or check the adapter with yarbus.audit(model, batch)",
            )
    return _States(model, processor, start, stages[-1], tuple(notes))


def _rows(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Rows with pictures, spread evenly; without any, rows of text."""
    chosen = [sample for sample in samples if sample.images] or list(samples)
    number = min(number, len(chosen))
    return [chosen[index * len(chosen) // number] for index in range(number)]


def _logged_rates(run: Path, stages: Sequence[str]) -> dict[str, float]:
    """Highest rate of each group in all logged lines."""
    rates: dict[str, float] = {}
    for stage in stages:
        path = run / "stages" / stage / "metrics.jsonl"
        for line in read_jsonl(path) if path.is_file() else ():
            for group, numbers in (line.get("groups") or {}).items():
                rates[group] = max(rates.get(group, 0.0), numbers.get("learning_rate") or 0.0)
    return rates


def _checkpoint_as_trained(model: Any, recipe: Recipe, stage: str) -> None:
    if recipe.stages[stage].gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def audit_run(run: str | Path, *, rows: int = ROWS) -> Audit:
    """Whether all that a finished run should have trained did, and whether its result is what it says.

    On ``rows`` training rows of the last stage, checkpointed as in training: every tensor that trained there has a
    gradient; every tensor of all stages moved; the last checkpoint and the adapter, each loaded from the disk, give
    equal logits; folding gives equal logits. Writes ``analysis/audit.json`` into the run.

    Raises:
        ConfigError: no run.
        CheckpointError: one that has not finished, or a file that is missing or damaged.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise ConfigError("not a run", where=run, why="it has no recipe.yaml", fix="name the folder of a trained run")
    if not (run / "adapter").is_dir():
        fix = "train it again with --resume auto"
        raise CheckpointError("the run has not finished", where=run, why="it has no adapter/", fix=fix)
    recipe, environment = load_recipe(run / "recipe.yaml"), read_record(run / "environment.json")
    stages = environment.get("stages") or list(recipe.stages)
    found = _audited(run, _states(run, recipe, stages, environment.get("start")), recipe, stages, rows)
    make_folder(run / "analysis")
    write_json(run / "analysis" / RECORD, found.to_json())
    return found


def _audited(run: Path, states: _States, recipe: Recipe, stages: Sequence[str], rows: int) -> Audit:
    model, stage = states.model, recipe.stages[states.stage]
    attachment = attachment_of(model)
    samples = _rows(mix(stage.used_data).samples, rows)
    collator = stage_collator(recipe, states.stage, model, states.processor)
    batch = collator([(sample, 0, row) for row, sample in enumerate(samples)])
    names = [name for group in parameter_groups(model).values() for name in group]
    expected = logits_of(model, batch)
    folding = check_folding(model, batch)
    _checkpoint_as_trained(model, recipe, states.stage)
    gradients = check_gradients(model, batch, names, has_trained=True)
    moved, still = movement(states.start, adapter_tensors(model), attachment)
    causes = {fault.tensor: fault.cause for fault in gradients.faults}
    moves = check_movement(moved, still, attachment, causes, _logged_rates(run, stages))
    dtype, notes = _dtype(model), states.notes
    del model, states  # before another is loaded
    published, _ = load_run(run)
    reload = check_equal("reload", expected, logits_of(published, batch), dtype)
    return Audit(checks=(gradients, moves, reload, folding), movement=moved, notes=notes)
