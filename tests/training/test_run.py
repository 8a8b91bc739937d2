"""A finished run as a model: at its end, and as it was after a step whose checkpoint was kept."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import STAGES
from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.core.recipe import load_recipe
from yarbus.models.attachment import adapter_tensors
from yarbus.training.run import load_checkpoint, load_run
from yarbus.training.stages import train


@pytest.fixture(scope="module")
def run(base, text_encoder, data, tmp_path_factory):
    """Checkpoints after steps 2 and 3 of the last stage."""
    from tests.training.conftest import stage

    covft = {"method": "covft", "num_experts": 2, "expert_jitter": 1e-2}
    rates = dict.fromkeys(("vision_new", "router", "vision", "projector"), 1e-3)
    more = {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 2}
    recipe = load_recipe(
        {
            "model": {"base": str(base)},
            "question": {"text_encoder": text_encoder},
            "stages": {
                "align": stage(data, {"projector": "full"}, {"projector": 1e-2}, steps=2),
                "instruct": stage(data, {"vision": covft, "projector": "full"}, rates, **more),
            },
        }
    )
    return train(recipe, tmp_path_factory.mktemp("runs") / "run", progress=False)


def tensors(loaded):
    return adapter_tensors(loaded[0])


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_last_checkpoint_is_the_finished_run(run):
    assert same(tensors(load_checkpoint(run, 3)), tensors(load_run(run)))


def test_an_earlier_checkpoint_is_the_run_as_it_was_then(run):
    found = tensors(load_checkpoint(run, 2))
    kept = load_file(run / "stages" / STAGES[-1] / "checkpoints" / "step-000002" / "weights.safetensors")
    assert same(found, {name: kept[name] for name in found})
    assert not same(found, tensors(load_run(run)))


@pytest.mark.parametrize("step", [1, 4])
def test_a_checkpoint_that_was_not_kept_is_told_with_what_would_keep_it(run, step):
    with pytest.raises(CheckpointError, match=rf"no checkpoint of step {step}: .*keep_checkpoints"):
        load_checkpoint(run, step)


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_a_damaged_checkpoint_is_never_read(copy):
    path = copy / "stages" / STAGES[-1] / "checkpoints" / "step-000002" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged checkpoint: .*weights\.safetensors"):
        load_checkpoint(copy, 2)


def test_a_checkpoint_of_another_run_is_refused(copy):
    text = (copy / "environment.json").read_text()
    name = text.split('"run": "')[1].split('"')[0]
    (copy / "environment.json").write_text(text.replace(name, "0" * len(name)))
    with pytest.raises(MismatchError, match="checkpoint of another run"):
        load_checkpoint(copy, 2)


def test_a_run_that_has_not_finished_or_is_none_has_no_checkpoint_to_load(copy, base, tmp_path):
    shutil.rmtree(copy / "adapter")
    with pytest.raises(CheckpointError, match="has not finished"):
        load_checkpoint(copy, 2)
    with pytest.raises(ConfigError, match="not a run"):
        load_checkpoint(base, 2)


def test_a_finished_run_whose_checkpoints_were_removed_is_told(copy):
    shutil.rmtree(copy / "stages")
    with pytest.raises(CheckpointError, match="no checkpoint of step 2"):
        load_checkpoint(copy, 2)


def test_an_adapters_own_folder_is_put_on_the_base_that_it_names(run, tmp_path):
    assert same(tensors(load_run(run / "adapter")), tensors(load_run(run)))
    shutil.copytree(run / "adapter", tmp_path / "nameless")
    description = json.loads((tmp_path / "nameless" / "adapter.json").read_text())
    description["base"]["name"] = ""
    (tmp_path / "nameless" / "adapter.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="does not name its base"):
        load_run(tmp_path / "nameless")
