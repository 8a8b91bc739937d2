"""A trained run as a model again."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.parts import is_parts
from yarbus.core.plugins import resolve
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_record
from yarbus.methods.assemble import load, load_adapter
from yarbus.models.attachment import load_adapter_tensors
from yarbus.models.load import load_base
from yarbus.training import checkpoint
from yarbus.training.folder import run_identity
from yarbus.training.guarded import WEIGHTS
from yarbus.training.snapshot import load_tensors


def load_checkpoint(run: str | Path, step: int) -> tuple[nn.Module, Any]:
    """The model and processor of a finished run as they were after ``step`` steps of its last stage.

    Raises ``CheckpointError`` where that checkpoint was not kept or is damaged.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise ConfigError("not a run", where=run, why="it has no recipe.yaml", fix="name the folder of a trained run")
    model, processor = load_run(run)
    stages = [stage for stage in load_recipe(run / "recipe.yaml").stages if (run / "stages" / stage).is_dir()]
    folder = checkpoint.step_folder(run / "stages" / stages[-1] / "checkpoints", step) if stages else None
    if folder is None or not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint of step {step}",
            where=run,
            why="it was not kept",
            fix="train again with a checkpoint_every that meets this step, and a higher keep_checkpoints",
        )
    checkpoint.verify(folder, run_identity(run))
    load_adapter_tensors(model, load_tensors(folder / WEIGHTS))
    return model, processor


def load_run(source: str | Path, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    """The model and processor of a finished run's folder, an adapter's, a full model's, or a base by name.

    An adapter's own folder is put on the base that it names. Without ``dtype`` weights are fp32, those of a full
    model's folder what they were saved in.

    Raises ``CheckpointError`` for a run that has not finished.
    """
    if is_parts(str(source)):
        return load_base(str(source), dtype or torch.float32)
    folder = Path(resolve(str(source)))
    if not folder.exists() and len(folder.parts) > 2:  # hub names have at most one slash
        raise ConfigError("no such run", where=folder, fix="give the folder of a run or model, or a hub name")
    if (folder / "recipe.yaml").is_file():
        if not (folder / "adapter").is_dir():
            raise CheckpointError(
                "the run has not finished",
                where=folder,
                why="it has no adapter/",
                fix="train it again with --resume auto",
            )
        model, processor = load_base(load_recipe(folder / "recipe.yaml").model.name, dtype or torch.float32)
        return load_adapter(model, processor, folder / "adapter")
    if (folder / "adapter.json").is_file():
        base = read_record(folder / "adapter.json").get("base") or {}
        if not base.get("name"):
            fix = "load the base, then the adapter with yarbus.load_adapter"
            raise CheckpointError("the adapter does not name its base", where=folder, fix=fix)
        model, processor = load_base(base["name"], dtype or torch.float32)
        return load_adapter(model, processor, folder)
    if (folder / "config.json").is_file():
        return load(folder) if dtype is None else load(folder, dtype=dtype)
    return load_base(str(source), dtype or torch.float32)
