"""Finished models by the folder, run or name that a person gives: an adapter on a base, or a model as a whole.

Nothing is loaded here; a run or an adapter is read as far as its description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.parts import is_parts, title_of
from yarbus.core.plugins import resolve
from yarbus.core.records import read_record
from yarbus.models.hub import from_hub, is_hub_name
from yarbus.models.save import read_description
from yarbus.models.weights import Weights, file_weights, model_weights

ADAPTER = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One finished model, before it is loaded."""

    name: str
    """As it was given."""
    folder: Path
    kind: Literal["adapter", "model"]
    description: Mapping[str, Any] = field(default_factory=dict)
    """What ``adapter.json``, or a full model's config, says of what is attached; empty for a plain model."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of a full model."""

    @cached_property
    def weights(self) -> Weights:
        """The tensors in its folder: of an adapter what was added or trained."""
        return file_weights(self.folder / ADAPTER) if self.kind == "adapter" else model_weights(self.folder)

    @property
    def base(self) -> str:
        """The base that an adapter names; empty for one that was made of a model without a name."""
        return str(self.description["base"]["name"]) if self.kind == "adapter" else self.name

    @cached_property
    def sha256(self) -> str:
        """Of its tensors' files."""
        return self.weights.sha256()

    def check(self) -> None:
        """Raises ``CheckpointError`` where an adapter's tensors are not the ones that it was saved with."""
        if self.kind == "adapter" and self.sha256 != self.description["sha256"]:
            why, fix = "its sha256 is not the one in adapter.json", "use another copy"
            raise CheckpointError("damaged adapter", where=self.folder / ADAPTER, why=why, fix=fix)

    @property
    def identity(self) -> dict[str, Any]:
        """What a record says of it; two that differ in the name alone hold the same numbers."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "sha256": self.sha256}
        if self.kind == "adapter":
            found["base"] = {key: self.description["base"][key] for key in ("name", "fingerprint")}
        return found


def _adapter(name: str, folder: Path) -> Checkpoint:
    return Checkpoint(name=name, folder=folder, kind="adapter", description=read_description(folder))


def open_checkpoint(source: str | Path) -> Checkpoint:
    """What a run's folder, an adapter's, a full model's, ``plug-in:path`` or a hub name stands for.

    Raises:
        ConfigError: it is none of these.
        CheckpointError: a run that has not finished, or a damaged adapter.
    """
    name = str(source)
    if is_parts(name):
        fix = "write it into one: yarbus.save(*load_base(name), folder)"
        raise ConfigError("a base from parts is in no folder", where=title_of(name), fix=fix)
    folder = Path(resolve(name))
    if (folder / "recipe.yaml").is_file():
        if not (folder / "adapter").is_dir():
            fix = "train it again with --resume auto"
            raise CheckpointError("the run has not finished", where=folder, why="it has no adapter/", fix=fix)
        return _adapter(name, folder / "adapter")
    if (folder / "adapter.json").is_file():
        return _adapter(name, folder)
    if is_hub_name(folder):
        folder = from_hub(name)
    if not (folder / "config.json").is_file():
        why = "it holds no recipe.yaml, adapter.json or config.json" if folder.exists() else "there is no such folder"
        fix = "give the folder of a run, an adapter or a model, or a hub name"
        raise ConfigError("neither a run, an adapter nor a model", where=folder, why=why, fix=fix)
    config = read_record(folder / "config.json")
    return Checkpoint(name=name, folder=folder, kind="model", config=config, description=config.get("yarbus") or {})
