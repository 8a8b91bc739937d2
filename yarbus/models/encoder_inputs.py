"""What a batch brings for further vision encoders: pictures as each one's processor makes them, or what was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.core.errors import DataError

PLACE = "context_vision_encoders"
"""Attribute of the base model that holds its further encoders by name; None without them."""
PIXELS = "context_pixel_values_"
"""Begins the name of each encoder's pictures in a batch."""
COUNTS, STATES, CHOICE, FEATURES, MASK = (
    f"context_{what}"
    for what in ("picture_counts", "prompt_states", "encoder_choice", "encoder_features", "encoder_mask")
)


@dataclass(frozen=True)
class EncoderInputs:
    """The pictures of one forward; or, where ``generate`` has chosen and encoded before it, what came of that."""

    pixels: Mapping[str, Tensor] = field(default_factory=dict)
    """Encoder -> [pictures, 3, height, width]."""
    counts: Tensor | None = None
    """[batch] pictures of each row."""
    states: Tensor | None = None
    """[batch, turns, dim] of the context prompt."""
    choice: Tensor | None = None
    """[batch] number of each row's encoder, -1 for rows without a picture."""
    features: Tensor | None = None
    """[batch, tokens, dim] adapted, of rows that chose a further encoder."""
    mask: Tensor | None = None
    """[batch, tokens]"""

    @property
    def rows(self) -> Tensor:
        """[pictures] row of the batch that each picture stands in."""
        assert self.counts is not None
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)


def encoder_names(base_model: nn.Module) -> tuple[str, ...]:
    """Names of the base model's further encoders, in order."""
    return tuple(getattr(base_model, PLACE, None) or ())


def encoder_inputs(
    encoders: Sequence[str], channel: Mapping[str, Any], num_rows: int, shown: Tensor | None
) -> EncoderInputs | None:
    """The inputs of a model's encoders from the ``context_*`` tensors; None for a model or a forward without.

    ``shown``: [batch] pictures of each row that the base's tower is shown, or their crops; None for a forward without.
    Raises ``DataError`` where a batch with pictures does not bring the same for every encoder.
    """
    if not encoders:
        return None
    if (choice := channel.get(CHOICE)) is not None:
        return EncoderInputs(
            states=channel.get(STATES), choice=choice, features=channel.get(FEATURES), mask=channel.get(MASK)
        )
    if shown is None:
        return None
    given = {name: channel.get(f"{PIXELS}{name}") for name in encoders}
    pixels = {name: values for name, values in given.items() if values is not None}
    counts, fix = channel.get(COUNTS), "make the batch with the processor that attach returned"
    lacking = [f"{PIXELS}{name}" for name in encoders if name not in pixels] + [COUNTS] * (counts is None)
    if lacking:
        raise DataError("no pictures for a vision encoder", why=f"the batch has no {', '.join(lacking)}", fix=fix)
    assert counts is not None
    for name, values in pixels.items():
        if values.ndim != 4 or len(values) != int(counts.sum()) or len(counts) != num_rows:
            raise DataError(
                f"the pictures of encoder '{name}' do not fit the batch",
                why=f"they are {tuple(values.shape)} for {int(counts.sum())} pictures in {num_rows} rows",
                fix=fix,
            )
    if not _are_the_same(counts.to(shown), shown):
        raise DataError(
            "the pictures of the vision encoders are not those of the base's tower",
            why=f"the batch counts {counts.tolist()} by row, the tower is shown {shown.tolist()}",
            fix=fix,
        )
    return EncoderInputs(pixels, counts)


def _are_the_same(counts: Tensor, shown: Tensor) -> bool:
    """Whether rows may have these pictures. A crop may count as one: then a row is shown as many, or more."""
    if int(counts.sum()) == int(shown.sum()):
        return torch.equal(counts, shown)
    return bool((counts <= shown).all()) and torch.equal(counts > 0, shown > 0)
