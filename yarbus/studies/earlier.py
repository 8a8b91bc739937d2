"""What an earlier call left in a comparison's folder: it stays only where it would be made the same today."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.core.parts import title_of
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import read_record
from yarbus.models.fingerprint import fingerprint
from yarbus.models.load import load_base
from yarbus.models.text_encoder import load_text_encoder
from yarbus.models.vlm import VLM
from yarbus.studies.work import Work
from yarbus.training.folder import adapter_hash, differences, has_progress, refuse_changes


def refuse_another(recipe: Recipe, works: Sequence[Work], folder: Path) -> None:
    """Raises where runs in the folder could not stand beside these, or be taken for them.

    What may change is what a resumed run may change; a folder in which nothing has been trained yet is free.

    Raises:
        ConfigError: a setting that changes the result is another one.
        MismatchError: the base or the text encoder on the disk is another one.
    """
    begun = {path.parent for path in folder.glob("*/recipe.yaml") if has_progress(path.parent)}
    if not begun:
        return
    refuse_other_recipe(recipe, folder / "comparison.json", "another comparison is in this folder")
    for work in works:
        if work.run in begun:
            start = None if work.start is None else _start_of(work, work.start)
            refuse_changes(load_recipe(work.recipe), work.run, {"stages": list(work.stages), "start": start})
    _refuse_other_weights([work for work in works if work.is_trained()])


def _start_of(work: Work, start: Path) -> str:
    if not (start / "adapter.json").is_file():
        raise ConfigError(
            f"'{work.label}' was not trained from here",
            where=start,
            why="it is there, and this is not",
            fix="restore it, or name another folder",
        )
    return adapter_hash(start)


def refuse_other_recipe(recipe: Recipe, record: Path, what: str) -> None:
    """Raises ``ConfigError`` where a study's record holds a recipe that would give other results; none is fine."""
    if not record.is_file():
        return
    old = read_record(record).get("recipe")
    if not isinstance(old, dict):
        raise CheckpointError("damaged record", where=record, why="it holds no 'recipe'", fix="name another folder")
    changed = differences(load_recipe(old).resolved(), recipe.resolved())
    if changed:
        why = "; ".join(changed[:3])
        raise ConfigError(what, where=record.parent, why=why, fix="restore it, or name another folder")


def _refuse_other_weights(trained: Sequence[Work]) -> None:
    """Compares base and text encoder with those that the adapters were trained on; each is loaded once."""
    for base in dict.fromkeys(work.base for work in trained):
        model, _ = load_base(base)
        now, encoders = fingerprint(dict(model.named_parameters())), dict[str, str]()
        for work in trained:
            if work.base == base:
                made = read_record(work.run / "adapter" / "adapter.json")
                _refuse_other(work, "base", title_of(base), made.get("base"), now)
                if made.get("text_encoder") is not None:
                    name = work.recipe["question"]["text_encoder"]
                    if name not in encoders:
                        encoders[name] = _encoder_fingerprint(name, model)
                    _refuse_other(work, "text encoder", name, made["text_encoder"], encoders[name])


def _encoder_fingerprint(name: str, model: nn.Module) -> str:
    return fingerprint(load_text_encoder(name, VLM.of(model)).state_dict())


def _refuse_other(work: Work, what: str, name: str, recorded: object, now: str) -> None:
    then = recorded.get("fingerprint") if isinstance(recorded, dict) else None
    if then != now:
        raise MismatchError(
            f"'{work.label}' was trained on another {what}",
            where=name,
            why=f"{then} then, {now} now",
            fix="restore it, or name another folder",
        )
