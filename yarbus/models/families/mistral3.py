"""Mistral3: a Pixtral tower, whose projector joins ``spatial_merge_size**2`` patches into one token."""

from collections.abc import Mapping
from typing import Any

import torch

from yarbus.models.families.llava import vision_feature_layer
from yarbus.models.families.pictures import sized
from yarbus.models.vlm import Family, ImageUnits


def packed_and_merged(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``image_sizes: [images, 2]``, height and width in pixels without what was padded."""
    sizes = torch.as_tensor(kwargs["image_sizes"], device=kwargs["pixel_values"].device)
    patches = sizes // config.vision_config.patch_size
    merged = (patches // config.spatial_merge_size).prod(dim=-1)
    return ImageUnits(tower_lengths=patches.prod(dim=-1), projector_lengths=merged, placeholders=merged)


MISTRAL3 = Family(
    config="Mistral3Config",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=packed_and_merged,
    pictures=sized,
    feature_layer=vision_feature_layer,
)
