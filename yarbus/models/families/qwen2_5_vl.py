"""Qwen2.5-VL: patches of all images packed into ``[total, dim]``, borders in ``image_grid_thw``.

The tower shuffles patches by window, but only within an image, so borders hold in every block.
"""

from collections.abc import Mapping
from typing import Any

from yarbus.models.families.pictures import patch_grid
from yarbus.models.vlm import Family, ImageUnits


def packed_by_grid(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``image_grid_thw: [images, 3]`` (frames, rows, columns of patches); the merger joins ``merge**2`` patches."""
    lengths = kwargs["image_grid_thw"].prod(dim=-1)
    merged = lengths // config.vision_config.spatial_merge_size**2
    return ImageUnits(tower_lengths=lengths, projector_lengths=merged, placeholders=merged)


QWEN2_5_VL = Family(
    config="Qwen2_5_VLConfig",
    vision_tower="visual",
    projector="visual.merger",
    language_model="language_model",
    units=packed_by_grid,
    processor="yarbus.models.image_only:ImageOnlyQwen2_5_VLProcessor",
    pictures=patch_grid,
)
