"""What was trained and saved is what is loaded, and by nobody else's base."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import yarbus
from tests.matrix.cells import BASE_CANNOT, all_models, assert_same, logits, not_loaded, only, trains, two_models
from tests.models.batches import ask
from yarbus.core.errors import CheckpointError, MismatchError
from yarbus.models.attachment import attachment_of, is_attached

FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from tests import tiny
import yarbus
torch.set_num_threads(1)
name, folder = sys.argv[1:]
for kind in ("adapter", "full"):
    saved = f"{folder}/{kind}"
    model, processor = yarbus.load(saved) if kind == "full" else yarbus.load_adapter(*tiny.EVERY[name](), saved)
    with torch.no_grad():
        found = model.eval()(**load_file(f"{folder}/in.safetensors")).logits
    save_file({"logits": found.contiguous()}, f"{folder}/{kind}.safetensors")
    print(type(processor).__name__)
"""


def skip_lost_processor(cell):
    if (why := not_loaded(cell.model)) is not None:
        pytest.skip(f"{BASE_CANNOT}{why}")


def loaded(cell, kind, folder):
    if kind == "adapter":
        return yarbus.load_adapter(*cell.plain(), folder)
    return yarbus.load(folder)


@pytest.mark.parametrize("kind", ["adapter", "full", "shards"])
def test_what_is_saved_is_what_is_loaded(cell, kind, text_encoder, pictures, tmp_path):
    model, processor = cell.moved(text_encoder)
    batch = ask(processor, pictures)
    expected = logits(model, batch)
    if kind == "adapter" and not trains(cell):
        with pytest.raises(CheckpointError, match="the adapter would be empty"):
            yarbus.save_adapter(model, tmp_path, processor)
        return
    if kind == "adapter":
        yarbus.save_adapter(model, tmp_path, processor)
    elif kind == "full":
        yarbus.save(model, processor, tmp_path)
    else:
        model.save_pretrained(tmp_path, max_shard_size="200KB")
        processor.save_pretrained(tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    if kind != "adapter":
        skip_lost_processor(cell)
    again, its_processor = loaded(cell, kind, tmp_path)
    if is_attached(again):  # a whole model in which nothing was inserted is a plain one
        assert attachment_of(again).places[cell.place] == cell.method
    assert type(its_processor).__name__ == type(processor).__name__ or not is_attached(again)
    other = ask(its_processor, pictures)
    assert set(other) == set(batch) and torch.equal(other["input_ids"], batch["input_ids"])
    assert_same(cell, logits(again.eval(), other), expected)


@all_models
@only(trains)
def test_an_adapter_is_refused_by_another_base(cell, text_encoder, tmp_path):
    model, processor = cell.moved(text_encoder)
    yarbus.save_adapter(model, tmp_path, processor)
    base, its_processor = cell.plain()
    with torch.no_grad():
        base.get_input_embeddings().weight.mul_(1.1)
    with pytest.raises(MismatchError, match="another base"):
        yarbus.load_adapter(base, its_processor, tmp_path)
    assert not is_attached(base)


@two_models
def test_a_fresh_process_gives_equal_logits(cell, text_encoder, pictures, tmp_path):
    skip_lost_processor(cell)
    model, processor = cell.moved(text_encoder)
    batch = dict(ask(processor, pictures))
    expected = logits(model, batch)
    yarbus.save_adapter(model, tmp_path / "adapter", processor)
    yarbus.save(model, processor, tmp_path / "full")
    save_file({name: value.contiguous() for name, value in batch.items()}, tmp_path / "in.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", FRESH, cell.model, str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    for kind in ("adapter", "full"):
        assert torch.equal(load_file(tmp_path / f"{kind}.safetensors")["logits"], expected)
    assert all(name.startswith("Context") for name in run.stdout.split())
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
