"""The cache of features: bounded, shared, safe to delete, and never a damaged number."""

import multiprocessing
import os
import shutil
import time

import pytest
import torch
from transformers import CLIPVisionModel

from tests.tiny.further_encoders import clip_vision
from yarbus.core.errors import CheckpointError
from yarbus.models.encoders import EncoderSpec, VisionEncoder
from yarbus.models.feature_cache import STALE_SECONDS, FeatureCache

KEY = "ab" * 32


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_put_comes_back_to_the_bit(tmp_path, dtype):
    cache, features = FeatureCache(tmp_path / "features", 10**6), torch.randn(4, 5).to(dtype)
    assert cache.get(KEY) is None
    cache.put(KEY, features)
    found = FeatureCache(tmp_path / "features", 10**6).get(KEY)
    assert torch.equal(found, features) and found.dtype == dtype
    assert [path.name for path in files(tmp_path)] == [f"{KEY}.safetensors"]


def test_a_damaged_file_is_as_good_as_none_and_written_again(tmp_path):
    cache, features = FeatureCache(tmp_path, 10**6), torch.randn(4, 5)
    cache.put(KEY, features)
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:-1], whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:], b"x" * 500):
        path.write_bytes(content)
        assert cache.get(KEY) is None
        cache.put(KEY, features)
        assert path.read_bytes() == whole and torch.equal(cache.get(KEY), features)
    other = "cd" * 32
    (tmp_path / "cd").mkdir()
    shutil.copy(path, tmp_path / "cd" / f"{other}.safetensors")  # another image's features under this one's name
    assert cache.get(other) is None


def test_it_never_passes_its_limit_and_lets_go_what_was_used_longest_ago(tmp_path):
    features = torch.randn(100)
    one = FeatureCache(tmp_path / "one", 10**6)
    one.put(KEY, features)
    each = size(tmp_path / "one")
    cache = FeatureCache(tmp_path / "many", 10 * each)
    keys = [f"{number:064x}" for number in range(40)]
    for number, key in enumerate(keys):
        cache.put(key, features)
        assert size(tmp_path / "many") <= 10 * each
        os.utime(cache._path(key), (number, number))
        if cache.get(keys[0]) is not None:  # used again, so it is the newest
            os.utime(cache._path(keys[0]), (1000 + number, 1000 + number))
    kept = {path.stem for path in files(tmp_path / "many")}
    assert keys[0] in kept and keys[-1] in kept and keys[1] not in kept and len(kept) >= 8
    FeatureCache(tmp_path / "many", 4 * each).put("ff" * 32, features)  # a smaller limit from now on
    assert size(tmp_path / "many") <= 4 * each
    small = FeatureCache(tmp_path / "small", each - 1)
    small.put(KEY, features)
    assert not (tmp_path / "small").exists()


def test_all_of_it_may_be_deleted_while_it_is_used(tmp_path):
    cache, features = FeatureCache(tmp_path / "features", 10**6), torch.randn(8)
    for _ in range(3):
        cache.put(KEY, features)
        shutil.rmtree(tmp_path / "features")
        assert cache.get(KEY) is None
    cache.put(KEY, features)
    assert torch.equal(cache.get(KEY), features)


def test_what_a_killed_process_began_is_removed(tmp_path):
    (tmp_path / "ab").mkdir()
    begun, old = tmp_path / "ab" / ".x.new", tmp_path / "ab" / ".y.new"
    for path in (begun, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - STALE_SECONDS - 5,) * 2)
    FeatureCache(tmp_path, 10**6).put(KEY, torch.randn(2))
    assert begun.exists() and not old.exists()


def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the feature cache"):
        FeatureCache(tmp_path / "file", 10**6).put(KEY, torch.randn(2))


def _fill(folder, seed):
    cache = FeatureCache(folder, 40_000)
    for number in range(60):
        key = f"{number % 20:064x}"
        found = cache.get(key)
        assert found is None or torch.equal(found, torch.full((256,), float(number % 20)))
        cache.put(key, torch.full((256,), float(number % 20)))


def test_several_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.new")) and 0 < size(tmp_path) <= 40_000 * (1 + 3 / 64)


def test_an_encoders_features_hang_on_its_weights_layer_precision_and_pixels(tmp_path):
    runs = []

    def encode(model, pixels, layer=None):
        encoder = VisionEncoder(model, EncoderSpec("x", layer))
        encoder.cache = FeatureCache(tmp_path, 10**6)
        model.register_forward_pre_hook(lambda *_: runs.append(1))
        return encoder(pixels)

    pixels = torch.randn(2, 3, 28, 28)
    first = encode(clip_vision(), pixels)
    assert len(runs) == 2 and torch.equal(encode(clip_vision(), pixels), first) and len(runs) == 2
    assert torch.equal(encode(clip_vision(), pixels[[1, 1, 0]]), first[[1, 1, 0]]) and len(runs) == 2
    other = clip_vision()
    with torch.no_grad():
        other.encoder.layers[0].mlp.fc2.weight.neg_()
    config = clip_vision().config
    config.hidden_act = "gelu"
    active = CLIPVisionModel(config).eval()
    active.load_state_dict(clip_vision().state_dict())
    for change in (
        lambda: encode(clip_vision(), pixels + 1e-3),
        lambda: encode(clip_vision(), pixels, layer=-1),
        lambda: encode(clip_vision().to(torch.bfloat16), pixels),
        lambda: encode(clip_vision().to(torch.bfloat16).float(), pixels),
        lambda: encode(active, pixels),
        lambda: encode(other, pixels),
    ):
        before = len(runs)
        assert not torch.equal(change().float(), first) and len(runs) == before + 2
    with torch.autocast("cpu", torch.bfloat16):
        before = len(runs)
        encode(clip_vision(), pixels)
        assert len(runs) == before + 2


def test_an_encoder_that_is_rounded_after_its_first_picture_does_not_keep_its_old_name(tmp_path):
    encoder, pixels = VisionEncoder(clip_vision(), EncoderSpec("x")), torch.randn(1, 3, 28, 28)
    encoder.cache = FeatureCache(tmp_path, 10**6)
    first = encoder(pixels)
    assert not torch.equal(encoder.to(torch.bfloat16).float()(pixels), first)
