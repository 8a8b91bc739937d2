"""The state of a training process as named tensors and plain numbers, so that no pickle is needed.

What ``torch.save`` would put into ``optimizer.pt`` and ``rng_state.pth`` becomes safetensors with
readable names plus JSON: a moment is found under its parameter's name, and nothing depends on the
order in which an optimizer happened to number its tensors.
"""

import random
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from yarbus.core.errors import CheckpointError, ConfigError, NonFiniteError

INEXACT = "resume from another checkpoint of this run"


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Writes the tensors as safetensors, from whatever device and layout they have."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that ``verify`` has checked; on the CPU."""
    if not file.is_file():
        raise CheckpointError(f"not exact: {file.name} missing", where=file.parent, fix=INEXACT)
    return load_file(file, device="cpu")


def check_finite_tensors(tensors: dict[str, Tensor], step: int) -> None:
    """Raises for the first tensor that holds a NaN or an infinity: such weights are never saved."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                "weights are not finite",
                where=f"{name} after step {step}",
                why="nothing was saved, the last checkpoint is whole",
                fix="resume from it with a lower learning rate",
            )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """``parameter name/state name`` -> tensor, for every tensor the optimizer keeps (moments, step counts)."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    raise ConfigError(
                        f"optimizer {type(optimizer).__name__} cannot be checkpointed",
                        why=f"its state '{key}' is no tensor",
                        fix="use AdamW or SGD",
                    )
                tensors[f"{name}/{key}"] = value
    return tensors


def optimizer_numbers(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Rates, betas and names of each optimizer group: everything but tensors."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], numbers: list[dict[str, Any]]) -> None:
    """The inverse of the two above; other parameters than those of ``optimizer`` are an error."""
    here = [group["names"] for group in optimizer.param_groups]
    there = [group["names"] for group in numbers]
    names = [name for group in here for name in group]
    if here != there:
        odd = sorted(set(names) ^ {name for group in there for name in group})
        raise CheckpointError("optimizer state of other parameters", why=", ".join(odd[:3]) or "order", fix=INEXACT)
    blank = optimizer.state_dict()
    number_of = {name: number for number, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in number_of:
            raise CheckpointError("optimizer state of an unknown parameter", where=name, fix=INEXACT)
        state.setdefault(number_of[name], {})[key] = tensor
    groups = [
        {**saved, "params": group["params"], **_as_tuples(group, saved)}
        for group, saved in zip(blank["param_groups"], numbers, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def rng_tensors() -> dict[str, Tensor]:
    """The state of every random number generator a training step may draw from, on this process."""
    _, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)  # type: ignore[misc]
    assert kind == "MT19937"
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*map(int, keys), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def set_rng(tensors: dict[str, Tensor]) -> None:
    """The inverse of ``rng_tensors``."""
    torch.set_rng_state(tensors["torch"])
    gauss = tensors["python_gauss"].tolist()
    random.setstate((3, tuple(tensors["python"].tolist()), gauss[0] if gauss else None))
    *keys, position, has_gauss = tensors["numpy"].tolist()
    numpy.random.set_state(
        ("MT19937", numpy.array(keys, dtype=numpy.uint32), position, has_gauss, tensors["numpy_gauss"].item())
    )
    if torch.cuda.is_available() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])


def _as_tuples(group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; an optimizer's ``betas`` are one."""
    return {key: tuple(saved[key]) for key, value in group.items() if isinstance(value, tuple) and key in saved}
