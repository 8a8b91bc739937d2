"""Mllama: the language model looks at images in cross-attention layers, not at tokens in its sequence.

An image is one token of the text, whatever its size. ``pixel_values`` have a row per row of the batch, filled up with
empty images; all tiles of an image are one row of the tower. Positions that may look at no image (those before the
first, and all of a row of words alone) look evenly at everything their row has, as the library computes it, so that
empty images are read as well: they answer to their row's question, and a row of words needs one beside pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from yarbus.models.families.pictures import cross_attended
from yarbus.models.vlm import Family, ImageUnits


def images_of_rows(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """``pixel_values: [batch, images, tiles, 3, height, width]``; an aspect ratio id of 0 marks an empty image."""
    batch, num_images = kwargs["pixel_values"].shape[:2]
    ratio_ids = kwargs["aspect_ratio_ids"].reshape(-1)
    return ImageUnits(
        tower_lengths=None,
        projector_lengths=None,
        placeholders=(ratio_ids > 0).long(),
        rows=torch.arange(batch, device=ratio_ids.device).repeat_interleave(num_images),
    )


def all_layers_side_by_side(config: Any) -> int:
    """The last block's output beside those of the tapped blocks."""
    return config.vision_config.vision_output_dim


def blocks_that_look_across(config: Any) -> Sequence[int]:
    """Of the language model."""
    return config.text_config.cross_attention_layers


MLLAMA = Family(
    config="MllamaConfig",
    vision_tower="vision_model",
    projector="multi_modal_projector",
    language_model="language_model",
    units=images_of_rows,
    feature_dim=all_layers_side_by_side,
    cross_blocks=blocks_that_look_across,
    pictures=cross_attended,
)
