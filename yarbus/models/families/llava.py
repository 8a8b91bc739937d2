"""LLaVA 1.5 and its kin: one image is one row of the tower, features come from ``hidden_states[-2]``.

With a Pixtral tower all images are one row, each as long as its size says.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from yarbus.models.families.pictures import fixed_size, sized
from yarbus.models.registers import REMEMBERED
from yarbus.models.vlm import TOWERS, Family, ImageUnits, constant_lengths

PICTURE_PX = "picture_px"
"""Attribute of the model's config: side of the pictures in pixels, where a tower that takes any is shown others than
those of its table of positions (DINOv2's: 224 instead of 518)."""


def side_of_pictures(config: Any) -> int:
    """Side in pixels of what a tower of fixed size is shown."""
    return getattr(config, PICTURE_PX, None) or config.vision_config.image_size


def one_row_per_image(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``pixel_values: [images, 3, height, width]``; every image takes the same number of placeholders."""
    pixel_values = kwargs["pixel_values"]
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=constant_lengths(len(pixel_values), placeholders, pixel_values.device),
    )


def packed_by_size(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``image_sizes: [images, 2]`` in pixels; without it every image is as large as ``pixel_values``."""
    pixel_values, sizes = kwargs["pixel_values"], kwargs.get("image_sizes")
    if sizes is None:
        sizes = [pixel_values.shape[-2:]] * len(pixel_values)
    sides = torch.as_tensor(sizes, device=pixel_values.device) // config.vision_config.patch_size
    lengths = sides.prod(dim=-1)
    return ImageUnits(tower_lengths=lengths, projector_lengths=lengths, placeholders=lengths)


def has_packed_tower(config: Any) -> bool:
    """Whether the images lie in one row of the tower."""
    return TOWERS[type(config.vision_config).__name__].layout == "total dim"


def by_layout(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """One row per image, or packed, as the tower has it."""
    units = packed_by_size if has_packed_tower(config) else one_row_per_image
    return units(config, kwargs, placeholders)


def vision_feature_layer(config: Any) -> int | list[int]:
    """-2 in LLaVA 1.5: the output of the last block but one."""
    return config.vision_feature_layer


def patches_and_kept_prefix(config: Any, prefix_tokens: int) -> int | None:
    """A row of tokens per image: its patches, and of the prefix all (``full``) or all but the first (``default``)."""
    if has_packed_tower(config):
        return None
    patches = (side_of_pictures(config) // config.vision_config.patch_size) ** 2
    dropped = (config.vision_feature_select_strategy == "default") + getattr(config, REMEMBERED, 0)
    return patches + prefix_tokens - dropped


def by_tower(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Of one size, or of any where the tower packs them."""
    if has_packed_tower(config):
        return sized(config, number, side)
    if getattr(config, PICTURE_PX, None) is None:
        return fixed_size(config, number, side)
    edge = side_of_pictures(config)
    return {"pixel_values": torch.empty(number, 3, edge, edge)}, None


LLAVA = Family(
    config="LlavaConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=by_layout,
    feature_layer=vision_feature_layer,
    image_tokens=patches_and_kept_prefix,
    pictures=by_tower,
)
