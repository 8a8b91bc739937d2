"""InternVL: the tiles of all pictures one after another, four neighbouring patches joined before the projector."""

from typing import Any

from yarbus.models.families.llava import one_row_per_image
from yarbus.models.families.pictures import tiles
from yarbus.models.vlm import Family


def layer_or_output(config: Any) -> int | None:
    """-1 means what the tower returns, behind its last norm."""
    return None if config.vision_feature_layer == -1 else config.vision_feature_layer


def joined_patches(config: Any) -> int:
    """Width of the patches that the projector takes as one."""
    return config.vision_config.hidden_size * int(1 / config.downsample_ratio) ** 2


INTERNVL = Family(
    config="InternVLConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=one_row_per_image,  # of tiles: nothing in a batch says which picture one belongs to, but its row follows
    feature_layer=layer_or_output,
    feature_dim=joined_patches,
    processor="yarbus.models.image_only:ImageOnlyInternVLProcessor",
    pictures=tiles,
)
