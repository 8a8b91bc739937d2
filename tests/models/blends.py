"""Finished models on disk for tests: a small base, adapters that were trained on it, full models."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import yarbus
from tests import tiny
from yarbus.models.attachment import adapter_tensors
from yarbus.models.load import load_base


def write_base(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    """A random Llava with its processor; returns its name."""
    model, processor = tiny.FAMILIES["llava"]()
    model.to(dtype).save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return str(folder)


def trained(base: str, seed: int, **places: Any) -> tuple[Any, Any]:
    """The base with methods attached, every tensor they train moved at random."""
    model, processor = load_base(base)
    yarbus.attach(model, processor, **places)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter_tensors(model).values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model, processor


def write_adapter(folder: Path, base: str, seed: int, **places: Any) -> Path:
    """An adapter that was trained on the base."""
    model, processor = trained(base, seed, **places)
    yarbus.save_adapter(model, folder, processor)
    return folder


def write_whole(folder: Path, base: str, seed: int, **places: Any) -> Path:
    """The same as a full model."""
    model, processor = trained(base, seed, **places)
    yarbus.save(model, processor, folder)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of an adapter's or a model's folder."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal names, precisions and bits."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )
