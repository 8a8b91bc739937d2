"""Qwen3-VL: packed as Qwen2-VL's; some blocks hand the first language blocks what they saw (deepstack).

Each tapped block has a projector of its own beside the last one, and all of them are the place ``projector``. What
the taps carry is made by blocks that read the question, so that it depends on the question as the image tokens do.
"""

from yarbus.models.families.pictures import patch_grid
from yarbus.models.families.qwen2_5_vl import packed_by_grid
from yarbus.models.vlm import Family

QWEN3_VL = Family(
    config="Qwen3VLConfig",
    vision_tower="visual",
    projector="visual.merger",
    beside_projector=("visual.deepstack_merger_list",),
    language_model="language_model",
    images_are_embeddings=False,
    units=packed_by_grid,
    processor="yarbus.models.image_only:ImageOnlyQwen3VLProcessor",
    pictures=patch_grid,
)
