"""Qwen2-VL: patches of all images packed into ``[total, dim]``, borders in ``image_grid_thw``."""

from yarbus.models.families.pictures import patch_grid
from yarbus.models.families.qwen2_5_vl import packed_by_grid
from yarbus.models.vlm import Family

QWEN2_VL = Family(
    config="Qwen2VLConfig",
    vision_tower="visual",
    projector="visual.merger",
    language_model="language_model",
    units=packed_by_grid,
    processor="yarbus.models.image_only:ImageOnlyQwen2VLProcessor",
    pictures=patch_grid,
)
