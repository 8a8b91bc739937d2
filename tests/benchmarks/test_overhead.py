"""The loop inside a model computes what ``covft`` does, and is measured beside it."""

import json

import pytest
import torch

import yarbus
from benchmarks.overhead import CoVFTLoop, main
from tests import tiny
from tests.experiments import write_experiment
from yarbus.methods import METHODS
from yarbus.methods.covft import CoVFT
from yarbus.methods.official import OFFICIAL, OURS, to_official
from yarbus.studies import overhead as measuring

LAYERS = "encoder.layers."


@pytest.fixture
def known(monkeypatch):
    """The benchmark's method is in the table for a while, and turns are taken in this process."""
    monkeypatch.setattr(METHODS["vision"], "_own", {**METHODS["vision"]._entries, CoVFTLoop.name: CoVFTLoop})
    monkeypatch.setattr(measuring, "in_own_process", lambda function, turn, threads: function(turn))


def test_the_loop_in_a_model_is_the_dense_mixture_with_the_same_tensors(text_encoder, pictures):
    logits = []
    dense = CoVFT.preset("official", num_experts=3, context_dim=16, expert_jitter=0.5)
    for method in (dense, CoVFTLoop(num_experts=3)):
        model, processor = tiny.llava()
        torch.manual_seed(1)
        yarbus.attach(model, processor, vision=method, text_encoder=text_encoder)
        if method is dense:
            mixtures = {name: t for name, t in model.state_dict().items() if ".mlp." in name and "_weight" in name}
            blocks = {name.split(LAYERS)[1].split(".")[0] for name in mixtures}
            own = {name: t for name, t in model.state_dict().items() if name.startswith(OURS)}
            tensors = to_official(
                {n: t for n, t in own.items() if n.split(f"{LAYERS}")[-1].split(".mlp.")[0] in blocks}
            )
        else:
            for block in blocks:
                prefix = f"{OFFICIAL}{LAYERS}{block}.mlp."
                form = model.model.vision_tower.encoder.layers[int(block)].mlp.form
                form.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        batch = processor(images=pictures[0], text="USER: <image>\nwhat digit is red ? ASSISTANT:", return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**batch).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_it_measures_the_loop_beside_the_others_and_writes_a_record(known, tmp_path, capsys):
    recipe, file = write_experiment(tmp_path), tmp_path / "made" / "overhead.json"
    few = ["--rounds", "1", "--steps", "1", "--answers", "1", "--warmup", "1", "--new-tokens", "2"]
    sizes = ["--tokens", "30", "--answer-tokens", "4", "--context-dim", "16"]
    record = main([str(recipe), *few, *sizes, "--output", str(file)])
    assert json.loads(file.read_text()) == record and record["random_weights"]
    assert list(record["variants"]) == ["frozen", "full", "covft-loop", "covft-dense", "covft-merged"]
    loop, dense = record["variants"]["covft-loop"], record["variants"]["covft-dense"]
    assert set(dense["step"]["times"]) == {"frozen", "full", "covft-loop"}
    assert dense["kept"]["bytes"] < loop["kept"]["bytes"]
    assert "covft-loop" in capsys.readouterr().out
