"""Videos raise with a reason, wherever they come in."""

import pytest
import torch

from tests import tiny
from tests.matrix.cells import attached
from tests.models.batches import ask
from yarbus.core.errors import DataError

WITH_VIDEOS = ["internvl", "llava_onevision", "molmo2", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"]


@pytest.mark.parametrize("beside_images", [True, False])
@pytest.mark.parametrize("name", [name for name in WITH_VIDEOS if name in tiny.EVERY])
def test_a_video_is_refused_in_forward_and_in_generate(name, beside_images, text_encoder, pictures):
    model, processor = attached(name, text_encoder)
    batch = dict(ask(processor, pictures[:2]))
    if not beside_images:
        batch = {key: batch[key] for key in ("input_ids", "attention_mask", *batch) if not key.startswith("pixel")}
    videos = {"pixel_values_videos": torch.zeros(8, 12)}
    if name.startswith("qwen"):
        videos["video_grid_thw"] = torch.tensor([[1, 2, 4]])
    for run in (model, model.generate):
        with pytest.raises(DataError, match=r"videos are not supported.*pass the frames as images"):
            run(**batch, **videos)
