"""The loop behind each part of the base: AdamW, warm-up and cosine, stoppable and resumable to the same weights.

The loss of a step is a function of the step's number, so a resumed run sees what the interrupted one would
have seen. State is safetensors and JSON, written beside and renamed.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Loss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Step -> loss, and what the log should say beside it."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How one part is trained."""

    seed: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_steps: int = 100
    log_every: int = 100
    save_every: int = 500

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    module: nn.Module, loss: Loss, schedule: Schedule, folder: Path, *, minutes: float = math.inf, resume: bool = False
) -> bool:
    """Whether training is finished; when ``minutes`` are over it stops at a checkpoint that ``resume`` continues.

    ``folder`` gets ``state.safetensors`` (weights and both moments of AdamW) and ``log.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log: dict[str, Any] = {"schedule": asdict(schedule), "step": 0, "seconds": 0.0, "curve": []}
    optimizer = _optimizer(module, schedule)
    if resume and (folder / "state.safetensors").exists():
        log = json.loads((folder / "log.json").read_text())
        _restore(module, optimizer, load_file(folder / "state.safetensors"), log["step"])
    started, seconds_before = time.monotonic(), log["seconds"]
    module.train()
    while log["step"] < schedule.steps:
        if time.monotonic() - started > 60 * minutes:
            _save(module, optimizer, log, folder)
            return False
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(log["step"])
        value, extra = loss(log["step"])
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        log["step"] += 1
        log["seconds"] = round(seconds_before + time.monotonic() - started, 1)
        if log["step"] % schedule.log_every == 0:
            point = {"step": log["step"], "seconds": log["seconds"], "loss": round(value.item(), 4), **extra}
            log["curve"].append(point)
            Console().print(json.dumps(point), highlight=False, soft_wrap=True)
        if log["step"] % schedule.save_every == 0:
            _save(module, optimizer, log, folder)
    _save(module, optimizer, log, folder)
    return True


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)


def _save(module: nn.Module, optimizer: torch.optim.AdamW, log: dict[str, Any], folder: Path) -> None:
    tensors = {f"weight.{name}": tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        if parameter in optimizer.state:
            tensors[f"first.{name}"] = optimizer.state[parameter]["exp_avg"]
            tensors[f"second.{name}"] = optimizer.state[parameter]["exp_avg_sq"]
    save_file(tensors, folder / "state.partial")
    (folder / "log.partial").write_text(json.dumps(log, indent=1))
    (folder / "state.partial").rename(folder / "state.safetensors")
    (folder / "log.partial").rename(folder / "log.json")


def _restore(module: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor], step: int) -> None:
    module.load_state_dict(weights(tensors))
    for name, parameter in module.named_parameters():
        if f"first.{name}" in tensors:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"first.{name}"],
                "exp_avg_sq": tensors[f"second.{name}"],
            }


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The module's state dict out of a checkpoint's tensors."""
    return {name.removeprefix("weight."): tensor for name, tensor in tensors.items() if name.startswith("weight.")}
