"""PaliGemma: one image is one row of the tower; the whole prompt is a prefix that looks at itself in both directions.

It has no chat template: the whole text without image tokens is the question, and the suffix is the answer.
"""

from yarbus.models.families.llava import one_row_per_image
from yarbus.models.families.pictures import every_patch
from yarbus.models.vlm import Family

PALIGEMMA = Family(
    config="PaliGemmaConfig",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=one_row_per_image,
    pictures=every_patch,
    images_are_embeddings=False,
)
