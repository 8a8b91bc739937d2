"""What pictures look like in a batch: shapes for ``yarbus plan`` and for dummy pictures, which have no processor.

Each function is a ``Family.pictures``: it takes (config, number of pictures, their side in pixels or None for the usual
one; 1 is as small as the family takes) and gives the forward's keyword arguments and the image tokens of one picture in
the language model's sequence, None where the family's own count holds. Pixels mean nothing. Where pixels stand in rows
of the batch, each picture is a row of its own: ``models.shape_batch`` puts several into one.
"""

from typing import Any

import torch
from torch import Tensor

SIDE = 784
"""Usual side in pixels where the tower takes any: about 0.6 megapixels, 784 image tokens in Qwen2.5-VL."""


def fixed_size(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """``pixel_values: [images, 3, image_size, image_size]``, whatever the picture's own size."""
    size = config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.empty(number, 3, height, width)}, None


def patch_grid(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Qwen's: ``pixel_values: [patches, channels x frames x patch x patch]`` and ``image_grid_thw``."""
    vision = config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    edge = max(1, round((side or SIDE) / unit)) * vision.spatial_merge_size
    channels = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.empty(number * edge**2, channels)
    grid = torch.tensor([[1, edge, edge]] * number)
    return {"pixel_values": pixels, "image_grid_thw": grid}, edge**2 // vision.spatial_merge_size**2


def averaged(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Gemma3's: a fixed size, and as many tokens as its config says."""
    return fixed_size(config, number, side)[0], config.mm_tokens_per_image


def every_patch(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """PaliGemma's: a fixed size, a token for each patch."""
    vision = config.vision_config
    return fixed_size(config, number, side)[0], (vision.image_size // vision.patch_size) ** 2


def sized(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Pixtral's: any size, told by ``image_sizes``. At least two tokens a side: of one Mistral3 drops the axis."""
    unit = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    edge = max(2, round((side or min(SIDE, config.vision_config.image_size)) / unit)) * unit
    return {
        "pixel_values": torch.empty(number, 3, edge, edge),
        "image_sizes": torch.tensor([[edge, edge]] * number),
    }, None


def _num_tiles(side: int, of_tile: int) -> int:
    """A grid of tiles that covers a square picture, and one with all of it where there are several."""
    edge = -(-side // of_tile)
    return edge**2 + (edge > 1)


def tiles(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """InternVL's: the tiles of all pictures one after another."""
    size = config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    count = _num_tiles(side or SIDE, width)
    return {"pixel_values": torch.empty(number * count, 3, height, width)}, count * config.image_seq_length


def rows_of_tiles(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Idefics3's and SmolVLM's, one picture a row. Pixels are real: the model looks for tiles that are black."""
    vision = config.vision_config
    count = _num_tiles(side or SIDE, vision.image_size)
    tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    return {"pixel_values": torch.ones(number, count, 3, vision.image_size, vision.image_size)}, count * tokens


def tiled(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """LLaVA-NeXT's and OneVision's: a grid of tiles, and the picture's size."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    tile = config.vision_config.image_size
    edge = max(side or SIDE, tile)
    count = image_size_to_num_patches([edge, edge], config.image_grid_pinpoints, tile)
    pixels = torch.empty(number, count, 3, tile, tile)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[edge, edge]] * number)}, None


def cross_attended(config: Any, number: int, side: int | None) -> tuple[dict[str, Tensor], int | None]:
    """Mllama's, one picture a row: one token of the text, whatever its tiles."""
    vision = config.vision_config
    count = min(_num_tiles(side or SIDE, vision.image_size), vision.max_num_tiles)
    pixels = torch.empty(number, 1, vision.max_num_tiles, 3, vision.image_size, vision.image_size)
    mask = (torch.arange(vision.max_num_tiles) < count).long().expand(number, 1, -1).contiguous()
    ratio = torch.full((number, 1), min(count, len(vision.supported_aspect_ratios)))
    return {"pixel_values": pixels, "aspect_ratio_ids": ratio, "aspect_ratio_mask": mask}, 1
