"""LLaVA-NeXT: a picture is one tile with all of it and a grid of tiles, all of them rows of the tower.

Behind the projector the grid's tokens become one picture again: what was padded is cut off, and every row of tokens
ends with a learned vector of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
    unpad_image,
)

from yarbus.models.families.llava import vision_feature_layer
from yarbus.models.families.pictures import tiled
from yarbus.models.vlm import Family, ImageUnits


def num_tiles(config: Any, size: Sequence[int]) -> int:
    """Tiles of a picture of ``size`` (height, width) in pixels."""
    return image_size_to_num_patches(list(size), config.image_grid_pinpoints, config.vision_config.image_size)


def tile_side(config: Any) -> int:
    """Tokens along a side of a tile."""
    return config.vision_config.image_size // config.vision_config.patch_size


def grid_tokens(config: Any, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of tokens that the grid of a picture has once its padding is cut off."""
    grid = get_anyres_image_grid_shape(list(size), config.image_grid_pinpoints, config.vision_config.image_size)
    height, width = (count * tile_side(config) for count in grid)
    _, rows, columns = unpad_image(torch.empty(1, height, width, device="meta"), list(size)).shape
    return rows, columns


def sizes_of(kwargs: Mapping[str, Any]) -> list[list[int]]:
    """Height and width of each picture."""
    return torch.as_tensor(kwargs["image_sizes"]).tolist()


def tiles_by_size(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``pixel_values: [pictures, most tiles, 3, height, width]``; sizes (``image_sizes``) tell which tiles are real."""
    sizes, device = sizes_of(kwargs), kwargs["pixel_values"].device
    tokens = []
    for size in sizes:
        rows, columns = grid_tokens(config, size)
        tokens.append(tile_side(config) ** 2 + rows * (columns + 1))
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=torch.tensor(tokens, device=device),
        tiles=torch.tensor([num_tiles(config, size) for size in sizes], device=device),
    )


LLAVA_NEXT = Family(
    config="LlavaNextConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=tiles_by_size,
    pictures=tiled,
    feature_layer=vision_feature_layer,
    beside_projector=("image_newline",),
)
