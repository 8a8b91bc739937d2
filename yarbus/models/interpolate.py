"""Models between two finished ones: every tensor weighted by ``1 - alpha`` and ``alpha``, without training.

A :class:`Pair` is two checkpoints of which every tensor has its counterpart (``pairing`` makes one), and writes the
blend of any ``alpha`` as a folder: an adapter if it is one of adapters, else a full model.
"""

import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.core.folders import appearing
from yarbus.core.records import read_record, write_json, write_text
from yarbus.models.checkpoints import ADAPTER, Checkpoint
from yarbus.models.encoders import FOLDER
from yarbus.models.processor import TOKENIZER_FOLDER
from yarbus.models.weights import INDEX, Form, Weights, write_tensors

RECORD = "interpolation.json"
COPIED = frozenset({".json", ".txt", ".model", ".jinja"})
COPIED_FOLDERS = (TOKENIZER_FOLDER, "text_encoder", FOLDER, "additional_chat_templates")
FIX = "blend two with the same methods; where other tensors trained, save both whole (yarbus.save) and blend those"


def blend(a: Tensor, b: Tensor, alpha: int | float) -> Tensor:
    """``(1 - alpha) a + alpha b``, summed in fp32 and cast to a precision that holds both.

    It is exactly ``a`` at 0 and exactly ``b`` at 1, and where the two are equal it is neither more nor less. Whole
    numbers and truth values are ``a``'s, and ``b``'s only at 1.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    if alpha in (0, 1) or not a.is_floating_point():
        return (b if alpha == 1 else a).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    x, y = a.to(wide), b.to(wide)
    return torch.where(x == y, x, (1 - alpha) * x + alpha * y).to(dtype)


def check_alpha(alpha: int | float) -> None:
    """Raises ``ConfigError`` outside of [0, 1]: there the line leaves both models behind."""
    if isinstance(alpha, bool) or not isfinite(alpha) or not 0 <= alpha <= 1:
        why = "0 is the first model, 1 the second, and the blends lie between"
        raise ConfigError(f"alpha is {alpha}", why=why, fix="choose alpha from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two checkpoints of which every tensor has its counterpart."""

    a: Checkpoint
    b: Checkpoint
    weights_a: Weights
    weights_b: Weights
    base: str | None
    """What a blend is loaded on if it is an adapter; None where it is a full model."""
    template: Path
    """Folder whose other files a blend takes over."""
    is_folded: bool = False
    """Low-rank updates were put into the weights."""
    forms: dict[str, Form] = field(default_factory=dict)
    """Of the blend."""

    def __post_init__(self) -> None:
        self.forms.update(_shared_forms(self))

    @property
    def made_from(self) -> dict[str, Any]:
        """Both checkpoints as a record names them."""
        return {"a": self.a.identity, "b": self.b.identity, "folded": self.is_folded}

    def tensor(self, name: str, alpha: int | float) -> Tensor:
        """One tensor of the blend."""
        a, b = self.weights_a.read(name), self.weights_b.read(name)
        found = blend(a, b, alpha)
        if found.is_floating_point() and not (torch.isfinite(found) | (a == b)).all():
            where = f"{self.a.name} and {self.b.name}"
            raise CheckpointError(f"tensor '{name}' holds NaN or infinity", where=where, fix="use earlier checkpoints")
        return found

    def write(self, alpha: int | float, out: str | Path) -> Path:
        """The blend as a folder, which appears under its name when all of it is on the disk.

        Raises:
            ConfigError: ``alpha`` outside of [0, 1], or a folder that holds something.
        """
        check_alpha(alpha)
        out = Path(out)
        with appearing(out) as beside:
            (self._write_model if self.base is None else self._write_adapter)(alpha, beside)
            record = {"schema": 1, "yarbus": version("yarbus"), "alpha": alpha, **self.made_from}
            write_json(beside / RECORD, record)
        return out

    def _write_adapter(self, alpha: int | float, folder: Path) -> None:
        _copy_files(self.template, folder, leave=("adapter.json", RECORD))
        digest = write_tensors(folder / ADAPTER, self.forms, partial(self.tensor, alpha=alpha))
        description = {**read_record(self.template / "adapter.json"), "sha256": digest}
        write_text(folder / "adapter.json", json.dumps(description, indent=1, sort_keys=True))

    def _write_model(self, alpha: int | float, folder: Path) -> None:
        weights = self.weights_a
        _copy_files(self.template, folder, leave=("adapter.json", "config.json", RECORD, *INDEX))
        for file, names in weights.shards.items():
            forms = {name: self.forms[name] for name in names}
            write_tensors(folder / file, forms, partial(self.tensor, alpha=alpha))
        if weights.index is not None:
            size = sum(form.dtype.itemsize * torch.Size(form.shape).numel() for form in self.forms.values())
            write_json(folder / weights.index, {"metadata": {"total_size": size}, "weight_map": dict(weights.files)})
        config = read_record(self.template / "config.json")
        floats = {name: form.dtype for name, form in self.forms.items() if form.kind == "float"}
        if any(weights.form(name).dtype != dtype for name, dtype in floats.items()):
            config = _with_dtype(config, max(floats.values(), key=lambda dtype: dtype.itemsize))
        write_json(folder / "config.json", config)


def _with_dtype(config: Any, dtype: torch.dtype) -> Any:
    """A config whose every precision is this one, so that loading does not round what was written."""
    if not isinstance(config, dict):
        return config
    name = str(dtype).removeprefix("torch.")
    return {
        key: name if key in ("dtype", "torch_dtype") else _with_dtype(value, dtype) for key, value in config.items()
    }


def _copy_files(source: Path, folder: Path, leave: tuple[str, ...]) -> None:
    """Processor, tokenizer and configs: what makes the weights a model, and nothing of what was done with it since."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in COPIED and path.name not in leave and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
        elif path.is_dir() and path.name in COPIED_FOLDERS:
            shutil.copytree(path, folder / path.name)


def _shared_forms(pair: Pair) -> dict[str, Form]:
    """The form of every tensor of a blend; the first tensor in which the two differ is refused by name."""
    forms = {}
    for name in sorted({*pair.weights_a.files, *pair.weights_b.files}):
        one, other = (
            weights.form(name) if name in weights.files else None for weights in (pair.weights_a, pair.weights_b)
        )
        if one is None or other is None or (one.shape, one.kind) != (other.shape, other.kind):
            raise mismatch(f"tensor '{name}'", pair.a, pair.b, (one or "missing", other or "missing"))
        forms[name] = Form(torch.promote_types(one.dtype, other.dtype), one.shape)
    if not forms:
        raise CheckpointError("nothing to blend", where=pair.a.name, fix="give models that hold tensors")
    return forms


def mismatch(what: str, a: Checkpoint, b: Checkpoint, found: tuple[object, object], fix: str = FIX) -> MismatchError:
    """The error for the first thing in which two checkpoints differ."""
    why = f"first: {found[0]}, second: {found[1]}"
    return MismatchError(f"{what} is not the same in both", where=f"{a.name} and {b.name}", why=why, fix=fix)
