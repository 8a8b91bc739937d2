from dataclasses import replace

import pytest
import torch
from transformers import FlavaConfig, FlavaModel

from tests.tiny.encoders import ENCODERS, PAIRS
from yarbus.core.errors import ConfigError
from yarbus.models.bare_encoder import has_text_side, load_bare_encoder


@pytest.fixture(scope="module", params=list(ENCODERS))
def folder(request, tmp_path_factory):
    return ENCODERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(request, tmp_path_factory):
    return load_bare_encoder(str(PAIRS[request.param](tmp_path_factory.mktemp(request.param))))


def test_every_encoder_gives_one_vector_per_picture_whatever_else_is_in_the_batch(folder, pictures):
    encoder = load_bare_encoder(str(folder))
    for feature in ("pooled", "patches"):
        found = encoder.image_features(pictures[:3], feature)
        assert found.shape[0] == 3 and found.dtype == torch.float32 and found.isfinite().all()
        torch.testing.assert_close(encoder.image_features(pictures[1:2], feature), found[1:2], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found[0], found[1])


def test_the_mean_of_patches_leaves_the_class_token_out(folder, pictures):
    encoder = load_bare_encoder(str(folder))
    vision = getattr(encoder.model, "vision_model", encoder.model)
    with torch.no_grad():
        tokens = vision(**encoder.pixels(pictures[:2])).last_hidden_state
    torch.testing.assert_close(encoder.image_features(pictures[:2], "patches"), tokens[:, -4:].mean(1))


def test_pictures_and_texts_of_a_pair_are_those_that_its_own_forward_compares(pair, pictures):
    tokens = pair.text_tokens(["a photo of a cat", "the red dog"])
    with torch.no_grad():
        own = pair.model(**tokens, **pair.pixels(pictures[:2]))
    images = torch.nn.functional.normalize(pair.image_features(pictures[:2]), dim=-1)
    texts = torch.nn.functional.normalize(pair.text_features(tokens), dim=-1)
    torch.testing.assert_close(images, own.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(texts, own.text_embeds, atol=1e-5, rtol=1e-5)


def test_a_text_means_the_same_beside_a_longer_one(pair):
    alone = pair.text_features(pair.text_tokens(["a cat"]))
    beside = pair.text_features(pair.text_tokens(["a cat", "a photo of the red tabby cat"]))[:1]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_siglip_reads_texts_padded_to_their_full_length_and_no_mask(tmp_path):
    tokens = load_bare_encoder(str(PAIRS["siglip"](tmp_path))).text_tokens(["a cat"])
    assert set(tokens) == {"input_ids"} and tokens["input_ids"].shape == (1, 12)


def test_a_text_that_is_too_long_is_cut(pair):
    assert pair.text_tokens(["cat " * 40])["input_ids"].shape[1] == 12


def test_an_encoder_without_words_has_no_text_side(tmp_path):
    encoder = load_bare_encoder(str(ENCODERS["dino"](tmp_path)))
    assert encoder.tokenizer is None and not has_text_side(encoder.model)


def test_a_vision_half_loads_by_itself_and_has_no_text_side(tmp_path, pictures):
    whole = load_bare_encoder(str(PAIRS["clip"](tmp_path / "whole")))
    whole.model.vision_model.save_pretrained(tmp_path / "half")
    whole.image_processor.save_pretrained(tmp_path / "half")
    half = load_bare_encoder(str(tmp_path / "half"))
    assert half.tokenizer is None
    torch.testing.assert_close(
        half.image_features(pictures[:1], "patches"), whole.image_features(pictures[:1], "patches")
    )


def test_a_pair_without_its_tokenizer_is_refused(tmp_path):
    PAIRS["clip"](tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="cannot load the tokenizer of encoder"):
        load_bare_encoder(str(tmp_path))


def test_a_pair_that_gives_several_vectors_of_a_picture_is_told_and_not_compared(tmp_path, pictures):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = {**sizes, "vocab_size": 20, "pad_token_id": 0}
    codes = {"num_groups": 1, "hidden_size": 4, "vocab_size": 8}
    flava = FlavaModel(
        FlavaConfig(
            image_config={**sizes, "image_size": 28, "patch_size": 14}, text_config=words, multimodal_config=sizes,
            image_codebook_config=codes, projection_dim=16,
        )
    )  # fmt: skip
    clip = load_bare_encoder(str(PAIRS["clip"](tmp_path)))
    encoder = replace(clip, model=flava.eval())
    assert clip.widths() == (24, 24) and encoder.widths() == (None, None)
    with pytest.raises(ConfigError, match=r"FlavaModel gives no pooled feature.*--features patches"):
        encoder.image_features(pictures[:1])
    with pytest.raises(ConfigError, match=r"FlavaModel shows no tokens.*it returns FlavaModelOutput"):
        encoder.image_features(pictures[:1], "patches")


def test_what_is_no_encoder_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="cannot load encoder: .*nowhere"):
        load_bare_encoder(str(tmp_path / "nowhere"))


def test_an_encoder_with_a_tensor_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    ENCODERS["dino"](tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    removed = next(name for name in tensors if name.endswith("fc1.weight"))
    tensors.pop(removed)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 1 tensors"):
        load_bare_encoder(str(tmp_path))


def test_an_encoder_without_image_processing_is_refused(tmp_path):
    ENCODERS["dino"](tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot load encoder"):
        load_bare_encoder(str(tmp_path))
