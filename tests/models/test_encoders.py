"""Further vision encoders: which hidden state they give, where they are read, and what a processor makes for them."""

import numpy as np
import pytest
import torch
from transformers import PixtralVisionConfig, PixtralVisionModel, SiglipVisionModel

from tests import tiny
from tests.tiny.encoders import clip_folder, dino_folder, siglip_folder
from tests.tiny.further_encoders import clip_pictures, clip_vision, encoder_folder, siglip_vision
from yarbus.core.errors import ConfigError, DataError
from yarbus.models.encoders import EncoderSpec, VisionEncoder, load_encoder
from yarbus.models.load import base_on_meta
from yarbus.models.processor import pictures_of_rows
from yarbus.models.vlm import VLM


@pytest.fixture(scope="module")
def vlm():
    return VLM.of(tiny.llava()[0])


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [-3, -2, -1, 0, 1, 2])
def test_a_hidden_state_is_the_librarys_of_that_number_without_the_class_token(layer, pixels):
    model = clip_vision()
    states = model(pixels, output_hidden_states=True).hidden_states
    found = VisionEncoder(model, EncoderSpec("x", layer))(pixels)
    assert torch.equal(found, states[layer][:, 1:]) and found.shape == (3, 4, 24) and not found.requires_grad


def test_a_clip_is_read_before_its_last_block_and_others_behind_their_norm(vlm, pixels):
    clip = load_encoder("clip", EncoderSpec(encoder_folder("clip")), vlm)
    assert torch.equal(clip(pixels), clip.model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
    siglip = load_encoder("siglip", EncoderSpec(encoder_folder("siglip")), vlm)
    large = torch.randn(2, 3, 42, 42)
    assert torch.equal(siglip(large), siglip.model(large).last_hidden_state) and siglip(large).shape == (2, 9, 20)


def test_whole_models_lend_their_eyes_and_a_dino_its_patches(vlm, pixels, tmp_path):
    for write, cls in (
        (clip_folder, "CLIPVisionModel"),
        (siglip_folder, "SiglipVisionModel"),
        (dino_folder, "Dinov2Model"),
    ):
        encoder = load_encoder("one", EncoderSpec(str(write(tmp_path / cls))), vlm)
        assert type(encoder.model).__name__ == cls and encoder(pixels).shape == (3, 4, 32)
    assert torch.equal(encoder(pixels), encoder.model(pixels).last_hidden_state[:, 1:])


def test_registers_are_left_out(pixels):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=3, mlp_ratio=2)).eval()
    assert torch.equal(VisionEncoder(model, EncoderSpec("x"))(pixels), model(pixels).last_hidden_state[:, 4:])


def test_an_encoder_is_frozen_in_eval_mode_and_as_precise_as_the_base(vlm):
    half = VLM.of(tiny.llava()[0].to(torch.bfloat16))
    encoder, full = (load_encoder("clip", EncoderSpec(encoder_folder("clip")), one) for one in (half, vlm))
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16} and encoder.fingerprint == full.fingerprint
    assert not encoder.train().training and not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert encoder.fingerprint != load_encoder("siglip", EncoderSpec(encoder_folder("siglip")), vlm).fingerprint


def test_what_cannot_be_an_encoder_is_refused_with_the_reason(vlm, tmp_path):
    clip_vision().save_pretrained(tmp_path / "bare")
    model = clip_vision()
    model.save_pretrained(tmp_path / "torn", state_dict={k: v for k, v in model.state_dict().items() if "fc1" not in k})
    clip_pictures(28).save_pretrained(tmp_path / "torn")
    tiny.llava()[0].model.language_model.save_pretrained(tmp_path / "words")
    for folder, why in (
        ("nowhere", "cannot load"),
        ("bare", "cannot load"),
        ("torn", "it lacks 4 tensors"),
        ("words", "no vision tower for"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_encoder("one", EncoderSpec(str(tmp_path / folder)), vlm)
    with pytest.raises(ConfigError, match=r"has no layer 4.*choose a layer from -3 to 2"):
        load_encoder("clip", EncoderSpec(encoder_folder("clip"), 4), vlm)
    pixtral = PixtralVisionModel(
        PixtralVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ConfigError, match=r"tokens are \[total dim\]"):
        VisionEncoder(pixtral, EncoderSpec("x"))


def test_an_encoder_whose_pooling_head_is_there_or_not_is_read(vlm, tmp_path):
    model, pixels = siglip_vision(), torch.randn(1, 3, 42, 42)
    assert "head.probe" in model.state_dict()
    encoder = load_encoder("siglip", EncoderSpec(encoder_folder("siglip")), vlm)
    assert torch.equal(encoder.model.state_dict()["head.probe"], model.state_dict()["head.probe"])
    model.config.vision_use_head = False
    headless = SiglipVisionModel(model.config)
    headless.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "head." not in name})
    headless.save_pretrained(tmp_path)
    encoder.image_processor.save_pretrained(tmp_path)
    assert torch.equal(load_encoder("siglip", EncoderSpec(str(tmp_path)), vlm)(pixels), encoder(pixels))


def test_a_config_that_no_model_is_made_of_is_told_with_and_without_weights(vlm, tmp_path):
    tiny.EVERY["molmo2"]()[0].config.vision_config.save_pretrained(tmp_path)
    clip_pictures(28).save_pretrained(tmp_path)
    for one in (vlm, VLM.of(base_on_meta(vlm.config.to_dict()))):
        with pytest.raises(ConfigError, match="cannot load vision encoder 'one'"):
            load_encoder("one", EncoderSpec(str(tmp_path)), one)


# ---- pictures of rows ----


def test_pictures_may_come_row_by_row_or_be_shared_out_by_their_tags(pictures):
    a, b, c = pictures[:3]
    texts = ["<image> <image> x", "y", "<image> z"]
    expected = [[a, b], [], [c]]
    assert pictures_of_rows([[a, b], [], [c]], texts, [None, "<image>"]) == expected
    assert pictures_of_rows([a, b, c], texts, [None, "<image>"]) == expected
    assert pictures_of_rows((a, b, c), texts, ["<start>", "<image>"]) == expected
    assert pictures_of_rows(a, texts[:1], []) == [[a]] and pictures_of_rows([a, b], texts[:1], []) == [[a, b]]
    stacked = np.zeros((2, 28, 28, 3), dtype=np.uint8)
    assert [len(row) for row in pictures_of_rows(stacked, ["<image>", "<image>"], ["<image>"])] == [1, 1]
    for images in ([a, b], [[a], [b]]):
        with pytest.raises(DataError, match="pass images= as one list per text"):
            pictures_of_rows(images, texts, ["<image>"])
