"""Weights on disk, one tensor at a time."""

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.blends import tensors_of, write_base
from yarbus.core.errors import CheckpointError
from yarbus.core.records import sha256_file
from yarbus.models.weights import Form, file_weights, model_weights, write_tensors

TENSORS = {
    "b.odd": torch.arange(3, dtype=torch.uint8),
    "a.half": torch.randn(3, 5).to(torch.bfloat16),
    "c.wide": torch.randn(2, 2, dtype=torch.float64),
    "d.one": torch.tensor(1.5),
    "e.none": torch.zeros(0, 4),
    "f.truth": torch.tensor([True, False, True]),
    "g.whole": torch.tensor([1, -2]),
}


def forms(tensors):
    return {name: Form(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def test_what_is_written_is_what_the_library_reads(tmp_path):
    digest = write_tensors(tmp_path / "x.safetensors", forms(TENSORS), TENSORS.__getitem__)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in TENSORS.items()
    )
    assert digest == sha256_file(tmp_path / "x.safetensors")


def test_a_transposed_tensor_is_written_as_it_is_meant(tmp_path):
    tensor = torch.randn(3, 4).T
    write_tensors(tmp_path / "x.safetensors", forms({"t": tensor}), lambda name: tensor)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["t"], tensor)


def test_one_tensor_is_held_at_a_time(tmp_path):
    """The writer lets go of a tensor before it asks for the next."""
    held: list[weakref.ref] = []

    def read(name):
        gc.collect()
        assert all(one() is None for one in held)
        tensor = TENSORS[name].clone()
        held.append(weakref.ref(tensor))
        return tensor

    write_tensors(tmp_path / "x.safetensors", forms(TENSORS), read)
    assert len(held) == len(TENSORS)


def test_shards_are_one_set_of_tensors(tmp_path):
    whole, parts = write_base(tmp_path / "whole"), write_base(tmp_path / "parts", max_shard_size="60KB")
    one, several = model_weights(tmp_path / "whole"), model_weights(tmp_path / "parts")
    assert whole != parts and len(several.shards) > 3 and several.index == "model.safetensors.index.json"
    assert one.files.keys() == several.files.keys()
    expected = tensors_of(tmp_path / "whole")
    assert all(torch.equal(several.read(name), expected[name]) for name in several.files)
    assert several.form("language_model.lm_head.weight").kind == "float"


def test_a_changed_byte_changes_the_hash_of_shards(tmp_path):
    write_base(tmp_path, max_shard_size="60KB")
    before, path = model_weights(tmp_path).sha256(), sorted(tmp_path.glob("*.safetensors"))[-1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert model_weights(tmp_path).sha256() != before


def test_where_the_base_and_ours_lie_in_one_folder_the_config_says_whose_weights_are_meant(tmp_path):
    write_base(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    save_file({"ours": torch.zeros(1)}, tmp_path / "model.yarbus.safetensors")
    assert set(model_weights(tmp_path).files.values()) == {"model.safetensors"}
    (tmp_path / "config.json").write_text(json.dumps({**plain, "yarbus": {}}))
    assert set(model_weights(tmp_path).files.values()) == {"model.yarbus.safetensors"}
    (tmp_path / "model.yarbus.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.yarbus\.safetensors nor"):
        model_weights(tmp_path)


@pytest.mark.parametrize("damage", ["missing shard", "cut shard", "other index", "path in index", "pickle only"])
def test_damaged_folders_are_named(damage, tmp_path):
    write_base(tmp_path, max_shard_size="60KB")
    index, shard = tmp_path / "model.safetensors.index.json", sorted(tmp_path.glob("*.safetensors"))[1]
    if damage == "missing shard":
        shard.unlink()
    elif damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:100])
    elif damage == "other index":
        record = json.loads(index.read_text())
        record["weight_map"]["no.such"] = shard.name
        index.write_text(json.dumps(record))
    elif damage == "path in index":
        index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    else:
        index.unlink()
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError) as error:
        model_weights(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_quantised_numbers_are_refused_by_name(tmp_path):
    save_file({"narrow": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="narrow.*F8"):
        file_weights(tmp_path / "x.safetensors").form("narrow")
