"""Molmo2: pictures cut into crops; the adapter pools patches of all crops of a picture into its tokens.

Its features are added to the embeddings of the placeholders.
"""

from collections.abc import Mapping
from typing import Any

from yarbus.models.vlm import Family, ImageUnits


def crops_of_pictures(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``image_num_crops: [pictures]``; ``image_grids: [pictures, 4]``, rows and columns of tokens, coarse and fine."""
    crops, grids = kwargs["image_num_crops"], kwargs["image_grids"]
    tokens = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
    # A picture's tokens are made of all its crops; told with the first one, they are all there and in order.
    lengths = crops.new_zeros(int(crops.sum())).index_put((crops.cumsum(0) - crops,), tokens)
    return ImageUnits(tower_lengths=None, projector_lengths=lengths, placeholders=tokens, tiles=crops)


def hidden_states_read(config: Any) -> list[int]:
    """The adapter counts blocks; among the hidden states the embeddings come before the first block's output."""
    return [layer + 1 if layer >= 0 else layer for layer in config.adapter_config.vision_feature_layer]


MOLMO2 = Family(
    config="Molmo2Config",
    vision_tower="vision_tower",
    projector="multi_modal_projector",
    language_model="language_model",
    units=crops_of_pictures,
    feature_layer=hidden_states_read,
    images_are_embeddings=False,
)
