"""Gemma3: one image is one row of the tower; the projector averages its patches down to a fixed number of tokens.

Crops (pan and scan) are images of their own, each with its placeholders.
"""

from yarbus.models.families.llava import one_row_per_image
from yarbus.models.families.pictures import averaged
from yarbus.models.vlm import Family

GEMMA3 = Family(
    config="Gemma3Config",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=one_row_per_image,
    pictures=averaged,
    images_are_embeddings=False,
)
