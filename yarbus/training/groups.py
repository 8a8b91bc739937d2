"""Optimizer groups by role: ``vision``, ``vision_new``, ``router``, ``projector``, ``language``, ``head``.

A group gets one learning rate from the recipe; with ``block_decay`` its tensors train the slower the
more vision blocks lie behind them. Whatever trains must be in a group, whatever a method declares must
hold a tensor, and every group needs a rate: a tensor that silently keeps its first value is the fault
this file exists for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from yarbus.core.errors import ConfigError
from yarbus.core.sections import GroupRate
from yarbus.models.vlm import VLM

Groups = Mapping[str, Mapping[str, nn.Parameter]]
"""Group -> parameter name -> tensor, as ``models.attachment.parameter_groups`` gives it."""
SHOWN_TENSORS = 4


def check_groups(model: nn.Module, groups: Groups, declared: Iterable[str], rates: Mapping[str, object]) -> None:
    """Raises where something would train wrongly or not at all.

    A declared group without a tensor, a group without a rate, a trainable tensor in no group (the
    forward pass never reaches it, or no method declared it), a tensor in two groups.
    """
    declared = list(declared)
    if not declared:
        raise ConfigError("the stage trains nothing", why="every method in it is frozen", fix="train one place")
    for group in declared:
        if not groups.get(group):
            raise ConfigError(
                f"group '{group}' holds no tensor",
                why="a method that trains in this stage declares it",
                fix="check the method's first_block and last_block, or train another method",
            )
    for group, tensors in groups.items():
        if tensors and group not in rates:
            raise ConfigError(
                f"no learning rate for group '{group}'",
                why=f"{len(tensors)} tensors train in it, the first is {next(iter(tensors))}",
                fix=f"add learning_rate.{group} to the stage",
            )
    home: dict[int, str] = {}
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if id(tensor) in home:
                raise RuntimeError(f"{name} is in group {home[id(tensor)]} and in {group}")
            home[id(tensor)] = group
    lost = [name for name, tensor in model.named_parameters() if tensor.requires_grad and id(tensor) not in home]
    if lost:
        raise ConfigError(
            f"{len(lost)} trainable tensors are in no group",
            where=lost[0],
            why="the forward pass does not reach them, or no method declares them",
            fix="freeze them, or train the method they belong to",
        )


def check_reached(groups: Groups) -> None:
    """Raises where a tensor that should train has no gradient, not even a zero one, after a backward pass."""
    lost = [name for tensors in groups.values() for name, tensor in tensors.items() if tensor.grad is None]
    if lost:
        raise ConfigError(
            f"{len(lost)} trained tensors receive no gradient",
            why=f"the loss does not depend on {', '.join(lost[:SHOWN_TENSORS])}{', ...' * (len(lost) > SHOWN_TENSORS)}",
            fix="name their module in the tower's dead_tail, or freeze their place",
        )


def block_of(name: str, paths: Iterable[str]) -> int | None:
    """Index of the vision block that a parameter lies in; None where it lies in none. ``paths``: the blocks' own."""
    return next((index for index, path in enumerate(paths) if name.startswith(f"{path}.")), None)


def blocks_behind(model: nn.Module) -> dict[str, int]:
    """Parameter name -> executed blocks that tokens pass after it, for every parameter of the vision tower.

    Modules of a tower stand in the order in which tokens pass them: what comes before the first block is embeddings
    and norms, what comes after the last one (a final norm, what a method put beside the blocks) has none behind it.
    """
    vlm = VLM.of(model)
    paths, executed = vlm.block_paths(), vlm.num_executed()
    tower = {id(parameter) for parameter in vlm.vision_tower.parameters()}
    found, passed = {}, 0
    for name, parameter in model.named_parameters():
        if id(parameter) in tower:
            block = block_of(name, paths)
            passed = passed if block is None else min(block + 1, executed)
            found[name] = executed - passed
    return found


def rate_scales(model: nn.Module, groups: Groups, rates: Mapping[str, GroupRate]) -> dict[str, float]:
    """Parameter name -> what its group's rate is multiplied with, for the groups that have a ``block_decay``.

    It is ``block_decay`` to the power of ``blocks_behind``: layer-wise decay as ELECTRA and BEiT have it, counted from
    the last executed block, which trains at the whole rate (there a task's head does, one or two layers above it; here
    what comes after the tower is in other groups). A group without a tensor in a block raises ``ConfigError``.
    """
    scales: dict[str, float] = {}
    decays = {group: rate.block_decay for group, rate in rates.items() if rate.block_decay != 1 and groups.get(group)}
    if not decays:
        return scales
    behind, paths = blocks_behind(model), VLM.of(model).block_paths()
    for group, decay in decays.items():
        if all(block_of(name, paths) is None for name in groups[group]):
            raise ConfigError(
                f"block_decay {decay:g} for group '{group}'",
                why="none of its tensors lies in a vision block",
                fix=f"remove learning_rate.{group}.block_decay",
            )
        scales |= {name: decay ** behind.get(name, 0) for name in groups[group]}
    return scales


def is_decayed(name: str, tensor: Tensor) -> bool:
    """Whether weight decay may act on a tensor: on no vector and no bias, stacked ones ``[experts, ...]`` included."""
    leaf = name.rpartition(".")[2]
    return tensor.ndim >= 2 and leaf != "bias" and not leaf.endswith("_bias")


def optimizer_groups(
    groups: Groups, rates: Mapping[str, float], weight_decay: float, scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """What a torch optimizer takes: per group its matrices, and its biases and norms without decay (``is_decayed``).

    Each entry carries ``group`` (the role) and ``names`` (of its ``params``, in order). ``scales`` (of ``rate_scales``)
    split a group further, one rate an entry, the slowest first.
    """
    scales = scales or {}
    entries: list[dict[str, Any]] = []
    for group, tensors in groups.items():
        for scale in sorted({scales.get(name, 1.0) for name in tensors}):
            for decays in (True, False):
                chosen = {
                    name: tensor
                    for name, tensor in tensors.items()
                    if is_decayed(name, tensor) == decays and scales.get(name, 1.0) == scale
                }
                if chosen:
                    entries.append(
                        {
                            "group": group,
                            "names": list(chosen),
                            "params": list(chosen.values()),
                            "lr": rates[group] * scale,
                            "weight_decay": weight_decay if decays else 0.0,
                        }
                    )
    return entries


def rate_factor(schedule: str, warmup_steps: int, num_steps: int, frozen_steps: int = 0) -> Callable[[int], float]:
    """``factor(steps done)``: what transformers' schedule of that name multiplies a rate with; 0 in frozen steps."""
    blank = torch.optim.SGD([torch.zeros(())], lr=1.0)
    made: Any = get_scheduler(schedule, blank, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
    factor: Callable[[int], float] = made.lr_lambdas[0]
    return lambda step: 0.0 if step < frozen_steps else factor(step)


def rate_range(entries: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Lowest and highest rate of each group as an optimizer's ``param_groups`` have them now."""
    found: dict[str, list[float]] = {}
    for entry in entries:
        found.setdefault(entry["group"], []).append(entry["lr"])
    return {group: (min(rates), max(rates)) for group, rates in found.items()}


def gradient_norms(groups: Groups) -> dict[str, float]:
    """L2 norm of each group's gradient as it is now; 0 where no gradient arrived. One device sync for all groups."""
    norms: dict[str, Tensor] = {}
    for group, tensors in groups.items():
        gradients = [tensor.grad for tensor in tensors.values() if tensor.grad is not None]
        norm = nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        norms[group] = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).float()  # DTensor under FSDP2
    if not norms:
        return {}
    device = max((norm.device for norm in norms.values()), key=lambda device: device.type != "cpu")
    return dict(zip(norms, torch.stack([norm.to(device) for norm in norms.values()]).tolist(), strict=True))
