"""LLaVA-OneVision: a picture that stands alone in its row is cut into tiles, pictures side by side are one tile each.

Large grids are made smaller behind the projector (``anyres_max_9``: to nine tiles' worth of tokens).
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import torch

from yarbus.models.families.llava import vision_feature_layer
from yarbus.models.families.llava_next import grid_tokens, num_tiles, sizes_of, tile_side
from yarbus.models.families.pictures import tiled
from yarbus.models.vlm import Family, ImageUnits

SHRINK_FROM = 1.1
"""A grid is made smaller where its side is longer than allowed by more than this."""


def picture_tokens(config: Any, size: Sequence[int]) -> int:
    """Tokens of a picture in tiles: the whole, its grid, and a vector behind each row of the grid."""
    rows, columns = grid_tokens(config, size)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = sqrt(rows * columns / (most * tile_side(config) ** 2))
    if ratio > SHRINK_FROM:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return tile_side(config) ** 2 + rows * (columns + 1)


def tiles_by_size_and_company(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """As in LLaVA-NeXT; ``batch_num_images`` [samples] says which pictures stand alone, by default all."""
    sizes, device = sizes_of(kwargs), kwargs["pixel_values"].device
    counts = kwargs.get("batch_num_images")
    counts = [1] * len(sizes) if counts is None else torch.as_tensor(counts).tolist()
    is_alone = [count == 1 for count in counts for _ in range(count)]
    pairs = list(zip(sizes, is_alone, strict=True))
    together = tile_side(config) ** 2 + 1  # one tile and one vector behind it
    tokens = [picture_tokens(config, size) if alone else together for size, alone in pairs]
    tiles = [num_tiles(config, size) if alone else 1 for size, alone in pairs]
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=torch.tensor(tokens, device=device),
        tiles=torch.tensor(tiles, device=device),
    )


LLAVA_ONEVISION = Family(
    config="LlavaOnevisionConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=tiles_by_size_and_company,
    pictures=tiled,
    feature_layer=vision_feature_layer,
    beside_projector=("image_newline",),
    processor="yarbus.models.image_only:ImageOnlyLlavaOnevisionProcessor",
)
