"""LLaVA 1.5 and its kin: one image is one row of the tower, features come from ``hidden_states[-2]``."""

from collections.abc import Mapping
from typing import Any

from yarbus.models.vlm import Family, ImageUnits, constant_lengths


def one_row_per_image(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``pixel_values: [images, 3, height, width]``; every image takes the same number of placeholders."""
    pixel_values = kwargs["pixel_values"]
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=constant_lengths(len(pixel_values), placeholders, pixel_values.device),
    )


def vision_feature_layer(config: Any) -> int | list[int]:
    """-2 in LLaVA 1.5: the output of the last block but one."""
    return config.vision_feature_layer


def patches_and_kept_prefix(config: Any, prefix_tokens: int) -> int:
    """A row of tokens per image: its patches, and of the prefix all (``full``) or all but the first (``default``)."""
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return patches + prefix_tokens - (config.vision_feature_select_strategy == "default")


LLAVA = Family(
    config="LlavaConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=one_row_per_image,
    feature_layer=vision_feature_layer,
    image_tokens=patches_and_kept_prefix,
)
