"""A run's folder: its records, who may go on in it, where it stands, and the adapter that means it is done."""

import os
import shutil
import sys
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from torch import nn

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import Recipe, load_recipe, write_recipe
from yarbus.core.records import environment, read_record, sync, write_json
from yarbus.core.sections import TEXT_CACHE
from yarbus.methods.assemble import build_all
from yarbus.models.save import save_adapter
from yarbus.training import checkpoint
from yarbus.training.planning import check_inputs, plan_recipe, refuse_untrained_projector

Resume = Literal["auto", "never"] | Path

FREE_KEYS = frozenset(
    {"log_every", "checkpoint_every", "keep_checkpoints", "num_workers", "micro_batch", "gradient_checkpointing"}
)
"""Of a stage: what may change on resume. The last two change rounding only, but for ``micro_batch`` where a method of
that stage or one before depends on it (``Method.depends_on_micro_batch``): there it may not change. A base that has
dropout of its own draws it anew."""
FREE_SECTIONS = frozenset({"name", "evaluation", "compare", "record"})
SHOWN_CHANGES = 6


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands: the stage it is in, and that stage's checkpoint (None: not begun)."""

    stage: str
    folder: Path | None = None


def is_main() -> bool:
    """Whether this process writes the records; with one process, yes."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_everyone() -> None:
    """Until every process of a distributed run has come here."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        PartialState().wait_for_everyone()


def say(line: str) -> None:
    """One line to the person who watches."""
    if is_main():
        sys.stderr.write(f"{line}\n")


def _entry(path: Path, key: str, fix: str) -> str:
    """One text of a record; a record without it is damaged."""
    value = read_record(path).get(key)
    if not isinstance(value, str):
        raise CheckpointError("damaged record", where=path, why=f"it holds no '{key}'", fix=fix)
    return value


def run_identity(run: Path) -> str:
    """The name that a run gave itself when it began; its checkpoints carry it."""
    return _entry(run / "environment.json", "run", "restore it, or train into another folder")


def adapter_hash(folder: Path) -> str:
    """The hash of the tensors that an adapter says it has; whether it has them, ``load_adapter`` checks."""
    if not (folder / "adapter.json").is_file():
        raise CheckpointError("not an adapter", where=folder, why="it has no adapter.json", fix="name a run's adapter/")
    return _entry(folder / "adapter.json", "sha256", "use another copy")


def open_run(recipe: Recipe, run: Path, resume: Resume, names: list[str], started_from: str | None) -> str:
    """Writes or checks the run's records; returns the run's identity."""
    if run.exists() and not run.is_dir():
        raise ConfigError("the run is a file, not a folder", where=run, fix="name another folder")
    progressed = has_progress(run)
    asked = {"stages": names, "start": started_from}
    if progressed and resume == "never":
        raise ConfigError("the folder holds a run already", where=run, fix="use resume auto, or another folder")
    if progressed:
        run_identity(run)
        refuse_changes(recipe, run, asked)
    elif resume not in ("auto", "never"):
        raise CheckpointError("no checkpoint", where=resume, why=f"{run} has none", fix="use resume auto")
    if not (run / "adapter").is_dir():
        check_inputs(recipe, names)
        if started_from is None:
            refuse_untrained_projector(recipe, names[0])
    if is_main():
        if not progressed:
            # Refuses a stage that could not train, before anything is loaded or written.
            plans = plan_recipe(recipe, is_started=started_from is not None)
            run.mkdir(parents=True, exist_ok=True)
            write_json(run / "plan.json", [plan.to_json() for plan in plans])
            write_json(run / "environment.json", {"run": uuid.uuid4().hex, **asked, **environment()})
        if not (run / "adapter").is_dir():
            write_recipe(recipe, run / "recipe.yaml")
    wait_for_everyone()
    return run_identity(run)


def has_progress(run: Path) -> bool:
    """Whether the folder holds weights that somebody trained."""
    return (run / "adapter").is_dir() or any(checkpoint.folders(f) for f in run.glob("stages/*/checkpoints"))


def refuse_changes(recipe: Recipe, run: Path, asked: Mapping[str, Any]) -> None:
    """Raises ``ConfigError`` where a setting that changes the result differs from the run in the folder.

    ``asked``: stages and start, as far as they are known, as the run's environment.json has them.
    """
    record = read_record(run / "environment.json")
    old = {**load_recipe(run / "recipe.yaml").resolved(), "run": {key: record.get(key) for key in asked}}
    changed = differences(old, {**recipe.resolved(), "run": dict(asked)}, _bound_keys(recipe))
    if changed:
        more = f"; and {len(changed) - SHOWN_CHANGES} more" if len(changed) > SHOWN_CHANGES else ""
        raise ConfigError(
            "settings differ from the run in this folder",
            where=run,
            why="; ".join(changed[:SHOWN_CHANGES]) + more,
            fix="restore them, or train into another folder",
        )


def _bound_keys(recipe: Recipe) -> set[str]:
    """The free keys that are not free in this recipe: ``micro_batch`` from the first stage on whose method needs it."""
    bound, depends = set(), False
    for name, stage in recipe.stages.items():
        depends = depends or any(method.depends_on_micro_batch for method in build_all(stage.train).values())
        bound |= {f"stages.{name}.micro_batch"} if depends else set()
    return bound


def differences(old: Mapping[str, Any], new: Mapping[str, Any], bound: Collection[str] = ()) -> list[str]:
    """``key old -> new`` of each setting of a resolved recipe that changes the result and is not the same in both.

    ``bound``: keys that change the result in this recipe though they are free in others.
    """
    before, now = _leaves(old), _leaves(new)
    return [
        f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and (key in bound or not _is_free(key))
    ]


def _is_free(key: str) -> bool:
    parts = key.split(".")
    if parts[0] == "question":
        return parts[1] in TEXT_CACHE
    return parts[0] in FREE_SECTIONS or (parts[0] == "stages" and len(parts) == 3 and parts[2] in FREE_KEYS)


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as ``{dotted.path: value}``."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    return {
        leaf: content
        for key, inner in value.items()
        for leaf, content in _leaves(inner, f"{path}.{key}" if path else str(key)).items()
    }


def find_position(run: Path, names: list[str], run_id: str, resume: Resume) -> Position:
    """The last stage with a whole checkpoint, or the one named; the first stage where there is none."""
    roots = {name: run / "stages" / name / "checkpoints" for name in names}
    if is_main():
        for root in roots.values():
            checkpoint.sweep(root)
    wait_for_everyone()
    if isinstance(resume, Path):
        manifest = checkpoint.verify(resume, run_id)
        if manifest.facts.get("stage") not in names:
            raise ConfigError(f"checkpoint of stage '{manifest.facts.get('stage')}'", where=resume, fix="name another")
        return Position(stage=manifest.facts["stage"], folder=resume)
    for name in reversed(names):
        folder = checkpoint.newest(roots[name], run_id, say)
        if folder is not None:
            return Position(stage=name, folder=folder)
    return Position(stage=names[0])


def publish_adapter(model: nn.Module, processor: Any, run: Path) -> None:
    """The result gets its name when all of it is on the disk: the folder means that the run is done."""
    beside = run / ".tmp-adapter"
    shutil.rmtree(beside, ignore_errors=True)
    save_adapter(model, beside, processor)
    for file in sorted(beside.rglob("*")):
        sync(file)
    sync(beside)
    beside.rename(run / "adapter")
    sync(run)
