"""Weights on disk, read and written one tensor at a time: safetensors files only.

What is blended may be larger than the memory, so no model and no file is ever held whole. The file that is written
here is an ordinary safetensors file: a length, a JSON header, the numbers.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_record, sha256_file
from yarbus.models.wrapper import VARIANT

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Precisions by their names in a file; others (float8 and narrower) are quantised weights."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
INDEX = ("model.safetensors.index.json", f"model.safetensors.index.{VARIANT}.json")


@dataclass(frozen=True)
class Form:
    """What a tensor is before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """Floating numbers are blended; whole numbers and truth values are copied."""
        return "bool" if self.dtype is torch.bool else "float" if self.dtype.is_floating_point else "integer"

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of one file or of the shards of one model, by name."""

    folder: Path
    files: Mapping[str, str]
    """Tensor -> file in the folder."""
    index: str | None = None
    """File that says which shard holds which tensor, where there are several."""
    forms: dict[str, Form] = field(default_factory=dict)
    _open: dict[str, Any] = field(default_factory=dict)

    def _file(self, name: str) -> Any:
        file = self.files[name]
        if file not in self._open:
            self._open[file] = _opened(self.folder / file)
        return self._open[file]

    def form(self, name: str) -> Form:
        """Precision and shape of a tensor."""
        if name not in self.forms:
            try:
                found = self._file(name).get_slice(name)
            except SafetensorError as error:
                raise _damaged(self.folder / self.files[name], str(error)) from None
            if found.get_dtype() not in DTYPES:
                raise CheckpointError(
                    f"tensor '{name}' is {found.get_dtype()}",
                    where=self.folder / self.files[name],
                    why="quantised weights cannot be blended",
                    fix="use the model in bfloat16, float16 or float32",
                )
            self.forms[name] = Form(DTYPES[found.get_dtype()], tuple(found.get_shape()))
        return self.forms[name]

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        self.form(name)
        return self._file(name).get_tensor(name)

    @property
    def shards(self) -> dict[str, list[str]]:
        """File -> its tensors."""
        found: dict[str, list[str]] = {}
        for name, file in self.files.items():
            found.setdefault(file, []).append(name)
        return found

    def sha256(self) -> str:
        """Of a single file its own, of shards that of their names and hashes."""
        hashes = {file: sha256_file(self.folder / file) for file in sorted(set(self.files.values()))}
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        return sha256("".join(f"{file} {value}\n" for file, value in hashes.items()).encode()).hexdigest()


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError("cannot read the weights", where=path, why=why, fix="use another copy")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise _damaged(path, "the file is missing") from None
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from None


def file_weights(path: Path) -> Weights:
    """The tensors of one file."""
    file = _opened(path)
    return Weights(folder=path.parent, files=dict.fromkeys(file.keys(), path.name), _open={path.name: file})


def model_weights(folder: Path) -> Weights:
    """The tensors of a full model's folder, which ``yarbus.save`` or the library wrote, whole or in shards.

    Where both have written, ``config.json`` says whose model it is.

    Raises:
        CheckpointError: a shard is missing or damaged, or there are no safetensors.
    """
    config = folder / "config.json"
    is_ours = config.is_file() and "yarbus" in read_record(config)
    variant = f".{VARIANT}" if is_ours else ""
    single, index = f"model{variant}.safetensors", f"model.safetensors.index{variant}.json"
    if (folder / single).is_file():
        return file_weights(folder / single)
    if (folder / index).is_file():
        return _sharded(folder, index)
    why = f"it has neither {single} nor {index}; pickles are never read"
    raise CheckpointError("no weights", where=folder, why=why, fix="save the model as safetensors")


def _sharded(folder: Path, index: str) -> Weights:
    files = read_record(folder / index).get("weight_map")
    if not isinstance(files, dict) or any(Path(str(file)).name != file for file in files.values()):
        raise _damaged(folder / index, "it has no weight_map of files beside it")
    weights = Weights(folder=folder, files=files, index=index)
    for file, names in weights.shards.items():
        weights._open[file] = _opened(folder / file)
        if missing := sorted(set(names) - set(weights._open[file].keys())):
            raise _damaged(folder / file, f"tensor '{missing[0]}' is missing")
    return weights


def _content(tensor: Tensor, form: Form) -> memoryview:
    assert (tensor.dtype, tuple(tensor.shape)) == (form.dtype, form.shape)
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_tensors(path: Path, forms: Mapping[str, Form], read: Callable[[str], Tensor]) -> str:
    """Writes a safetensors file tensor by tensor and puts it on the disk; returns its sha256."""
    # Wide numbers first, so that each tensor lies where its precision may lie.
    order = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        form, start = forms[name], end
        end += form.dtype.itemsize * torch.Size(form.shape).numel()
        header[name] = {"dtype": NAMES[form.dtype], "shape": list(form.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    digest = sha256()
    with open(path, "wb") as file:
        for part in (len(text).to_bytes(ALIGNMENT, "little"), text):
            file.write(part)
            digest.update(part)
        for name in order:
            content = _content(read(name), forms[name])
            file.write(content)
            digest.update(content)
            del content  # before the next is read
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
