"""Registers: tokens of a tower that hold no patch, and that a language model has no use for.

A finished checkpoint was trained with what its processor counts, so a loaded model keeps its registers. A model that is
built from parts drops them behind its tower, here; its config remembers it.
"""

from typing import Any

import torch
from torch import nn

from yarbus.core.errors import ConfigError
from yarbus.models.vlm import VLM

REMEMBERED = "dropped_registers"
"""Attribute of the model's config, and of the tower that drops: registers of each image."""


def _drop(tower: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Hook of the tower: hidden states keep the class token and the patches. It knows no model: copies stay apart."""
    first = 1 + getattr(tower, REMEMBERED)
    output.hidden_states = tuple(
        None if states is None else torch.cat([states[:, :1], states[:, first:]], dim=1)
        for states in output.hidden_states or ()
    )


def drop_registers(model: nn.Module, processor: Any) -> int:
    """Takes the registers out of what the tower returns, for good: how many for each image, 0 without any.

    The processor is told that an image takes so many tokens less. Call it on a model that is being built, before
    anything is trained or attached.
    """
    vlm = VLM.of(model)
    number = getattr(vlm.vision_config, "num_register_tokens", 0)
    if number == 0 or getattr(model.config, REMEMBERED, 0):
        return number
    if vlm.family.feature_layer(model.config) is None or not hasattr(processor, "num_additional_image_tokens"):
        raise ConfigError(
            f"cannot drop the registers of {vlm.tower.config}",
            where=type(model.config).__name__,
            why="this family's features or placeholders are not counted by token of the tower",
            fix="keep them, or build a Llava",
        )
    setattr(model.config, REMEMBERED, number)
    restore_dropping(model)
    processor.num_additional_image_tokens -= number
    return number


def drops_registers(model: nn.Module) -> bool:
    """Whether it computes what no other program does with its tensors."""
    return bool(getattr(model.config, REMEMBERED, 0))


def restore_dropping(model: nn.Module) -> None:
    """Lets a model that has just been loaded drop registers, where its config says so."""
    number = getattr(model.config, REMEMBERED, 0)
    if number:
        tower = VLM.of(model).vision_tower
        setattr(tower, REMEMBERED, number)
        tower.register_forward_hook(_drop)
