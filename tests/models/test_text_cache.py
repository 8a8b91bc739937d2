"""The cache of a text encoder's states: exact, and of two kinds that never stand in for each other."""

import pytest
import torch

from yarbus.models.feature_cache import FeatureCache
from yarbus.models.text_cache import TextCache

TEXT = (2, 7, 9, 3)


def cache(folder, has_tokens):
    return TextCache(FeatureCache(folder, 10**6), has_tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_put_comes_back_to_the_bit(tmp_path, dtype):
    states, pooled = torch.randn(4, 6).to(dtype), torch.randn(6).to(dtype)
    cache(tmp_path, True).put("encoder", TEXT, (states, pooled))
    found = cache(tmp_path, True).get("encoder", TEXT)
    assert torch.equal(found[0], states) and torch.equal(found[1], pooled) and found[0].dtype == dtype


def test_pooled_vectors_alone_are_a_row_and_no_token(tmp_path):
    states, pooled = torch.randn(4, 6), torch.randn(6)
    cache(tmp_path, False).put("encoder", TEXT, (states, pooled))
    found = cache(tmp_path, False).get("encoder", TEXT)
    assert found[0].shape == (0, 6) and torch.equal(found[1], pooled)
    assert cache(tmp_path, True).get("encoder", TEXT) is None


def test_another_encoder_text_or_precision_of_products_finds_nothing(tmp_path, monkeypatch):
    cache(tmp_path, True).put("encoder", TEXT, (torch.randn(4, 6), torch.randn(6)))
    assert cache(tmp_path, True).get("another", TEXT) is None
    assert cache(tmp_path, True).get("encoder", TEXT[:-1]) is None
    assert cache(tmp_path, False).get("encoder", TEXT) is None
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert cache(tmp_path, True).get("encoder", TEXT) is None


@pytest.mark.parametrize("has_tokens", [True, False])
def test_the_size_that_is_told_is_never_below_that_of_the_files(tmp_path, has_tokens):
    texts = [tuple(range(length)) for length in (1, 3, 128)]
    for text in texts:
        cache(tmp_path, has_tokens).put("encoder", text, (torch.randn(len(text), 768), torch.randn(768)))
    files = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    told = cache(tmp_path, has_tokens).bytes_of(texts, 768, torch.float32)
    assert files <= told < files + 3 * 128
