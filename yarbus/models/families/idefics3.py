"""Idefics3: pictures cut into tiles, a row of tiles per row of the batch, filled up with black ones."""

from collections.abc import Mapping
from typing import Any

import torch

from yarbus.models.families.pictures import rows_of_tiles
from yarbus.models.vlm import Family, ImageUnits


def tiles_of_rows(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``pixel_values: [batch, tiles, 3, height, width]``; the model removes tiles of zeros before its tower runs."""
    pixel_values = kwargs["pixel_values"]
    is_real = (pixel_values != 0).flatten(start_dim=2).any(dim=-1)
    rows = torch.arange(len(is_real), device=is_real.device).repeat_interleave(is_real.sum(dim=1))
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    return ImageUnits(tower_lengths=None, projector_lengths=None, placeholders=torch.full_like(rows, tokens), rows=rows)


IDEFICS3 = Family(
    config="Idefics3Config",
    vision_tower="vision_model",
    projector="connector",
    language_model="text_model",
    units=tiles_of_rows,
    pictures=rows_of_tiles,
)
