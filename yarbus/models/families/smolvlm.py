"""SmolVLM: built as Idefics3, except that its tower never runs on nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from yarbus.models.families.idefics3 import IDEFICS3, tiles_of_rows
from yarbus.models.vlm import Family, ImageUnits


def tiles_of_rows_or_one(config: Any, kwargs: Mapping[str, Any], placeholders: int) -> ImageUnits:
    """As Idefics3's; where all tiles of the batch are zeros the model keeps the first of them."""
    units = tiles_of_rows(config, kwargs, placeholders)
    if len(units.placeholders):
        return units
    first = torch.zeros(1, dtype=torch.long, device=units.placeholders.device)
    return replace(units, placeholders=first, rows=first)


SMOLVLM: Family = replace(
    IDEFICS3,
    config="SmolVLMConfig",
    units=tiles_of_rows_or_one,
    processor="yarbus.models.pil_smolvlm:PilSmolVLMProcessor",
)
