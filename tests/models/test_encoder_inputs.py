"""Whether a batch's pictures for further encoders may be those of the base's tower, row by row."""

import pytest
import torch

from yarbus.core.errors import DataError
from yarbus.models.encoder_inputs import encoder_inputs


@pytest.mark.parametrize(
    ("counts", "shown", "fits"),
    [
        ([1, 2], [1, 2], True),
        ([2, 1], [1, 2], False),  # as many, and of other rows
        ([1, 2], [5, 4], True),  # crops
        ([2, 1], [9, 0], False),
        ([0, 3], [4, 4], False),
        ([3, 1], [2, 4], False),  # a picture has a crop at least
    ],
)
def test_counts_are_the_pictures_that_the_tower_is_shown_or_fewer_than_their_crops(counts, shown, fits):
    channel = {
        "context_picture_counts": torch.tensor(counts),
        "context_pixel_values_clip": torch.zeros(sum(counts), 3, 2, 2),
    }
    if fits:
        assert encoder_inputs(["clip"], channel, 2, torch.tensor(shown)).counts.tolist() == counts
        return
    with pytest.raises(DataError, match="not those of the base's tower"):
        encoder_inputs(["clip"], channel, 2, torch.tensor(shown))
