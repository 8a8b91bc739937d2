"""Optimizer groups by role: ``vision``, ``vision_new``, ``router``, ``projector``, ``language``, ``head``.

A group gets one learning rate from the recipe. Whatever trains must be in a group, whatever a
method declares must hold a tensor, and every group needs a rate: a tensor that silently keeps its
first value is the fault this file exists for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.core.errors import ConfigError

Groups = Mapping[str, Mapping[str, nn.Parameter]]
"""Group -> parameter name -> tensor, as ``models.attachment.parameter_groups`` gives it."""
SHOWN_TENSORS = 4


def check_groups(model: nn.Module, groups: Groups, declared: Iterable[str], rates: Mapping[str, float]) -> None:
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


def optimizer_groups(groups: Groups, rates: Mapping[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """What a torch optimizer takes: per group its matrices, and its biases and norms (``ndim < 2``) without decay.

    Each entry carries ``group`` (the role) and ``names`` (of its ``params``, in order).
    """
    entries: list[dict[str, Any]] = []
    for group, tensors in groups.items():
        for decays in (True, False):
            chosen = {name: tensor for name, tensor in tensors.items() if (tensor.ndim >= 2) == decays}
            if chosen:
                entries.append(
                    {
                        "group": group,
                        "names": list(chosen),
                        "params": list(chosen.values()),
                        "lr": rates[group],
                        "weight_decay": weight_decay if decays else 0.0,
                    }
                )
    return entries


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
