"""Qwen2-VL: a tower whose config says under ``hidden_size`` how wide the language model is."""

from tests.matrix.cells import plain
from yarbus.models.vlm import VLM


def test_the_width_of_its_tokens_is_not_that_of_what_it_hands_on():
    vlm = VLM.of(plain("qwen2_vl")[0])
    assert (vlm.vision_dim, vlm.feature_dim, vlm.language_dim) == (32, 32, 48)
    assert vlm.vision_config.hidden_size == 48
