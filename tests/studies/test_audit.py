"""A finished run is audited from its disk alone; what was tampered with, or never moved, is named."""

import hashlib
import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.experiments import write_experiment
from yarbus.cli.app import run
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json
from yarbus.studies.audit import audit_run
from yarbus.training.stages import train


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """Two stages: the projector alone, then LoRA and experts beside it, checkpointed."""
    covft = {"method": "covft", "num_experts": 2, "context_dim": 16, "expert_jitter": 1e-2}
    changes = {
        "stages.instruct.train.vision": covft,
        "stages.instruct.train.language": {"method": "lora", "rank": 2},
        "stages.instruct.gradient_checkpointing": True,
        "stages.instruct.warmup_fraction": 0.0,
        "stages.align.warmup_fraction": 0.0,
    }
    return train(load_recipe(experiment, changes), tmp_path_factory.mktemp("runs") / "one", progress=False)


def test_a_sound_run_passes_and_its_movement_is_that_of_the_whole_run(finished):
    found = audit_run(finished)
    assert found.passed, str(found)
    assert [(check.name, check.verdict) for check in found.checks] == [
        ("gradients", "pass"), ("movement", "pass"), ("reload", "pass"), ("folding", "pass"),
    ]  # fmt: skip
    rows = {(row["place"], row["group"]): row for row in found.movement}
    assert set(rows) == {
        ("vision", "vision"), ("vision", "vision_new"), ("vision", "router"), ("projector", "projector"),
        ("language", "language"),
    }  # fmt: skip
    assert all(row["distance"] > 0 and row["still"] == 0 for row in rows.values())
    # Adam moves a number by at most about its rate in a step: two stages of the projector, two steps of the others.
    assert rows["projector", "projector"]["relative"] < 1
    record = read_json(finished / "analysis" / "audit.json")
    assert record == json.loads(json.dumps(found.to_json())) and record["schema"] == 1


def test_the_verb_prints_what_was_found_and_leaves_with_0(finished, capsys):
    assert run(["audit", str(finished)]) == 0
    printed = capsys.readouterr().out
    for said in ("gradients", "movement", "reload", "folding", "language", "audit.json"):
        assert said in printed
    assert run(["audit", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_an_adapter_that_is_not_what_training_left_fails_with_74(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "run")
    path = copy / "adapter" / "adapter.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "multi_modal_projector" in name and name.endswith("weight"))
    save_file({**tensors, name: tensors[name] * 2}, path, metadata={"format": "pt"})
    description = read_json(copy / "adapter" / "adapter.json")
    description["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "adapter" / "adapter.json").write_text(json.dumps(description))
    assert run(["audit", str(copy)]) == 74
    assert "the audit failed: reload" in capsys.readouterr().err
    assert read_json(copy / "analysis" / "audit.json")["passed"] is False


def test_a_stage_whose_only_step_has_a_rate_of_zero_is_found_with_its_cause(experiment, tmp_path, capsys):
    changes = {
        "stages.instruct.steps": 1, "stages.instruct.warmup_fraction": 0.9, "stages.instruct.train.vision": "bitfit",
        "stages.instruct.train.language": "frozen",
    }  # fmt: skip
    folder = train(load_recipe(experiment, changes), tmp_path / "run", progress=False)
    found = audit_run(folder)
    movement = next(check for check in found.checks if check.name == "movement")
    assert movement.failed and {fault.cause for fault in movement.faults} == {"a rate of zero"}
    assert all(".bias" in fault.tensor for fault in movement.faults)  # the projector moved in the stage before
    assert run(["audit", str(folder)]) == 74
    error = capsys.readouterr().err
    assert "likely cause: a rate of zero" in error and "warm-up" in error and "vision_tower" in error


def test_what_is_no_finished_run_is_told(finished, tmp_path):
    with pytest.raises(ConfigError, match="not a run"):
        audit_run(tmp_path)
    copy = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(copy / "stages" / "instruct" / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        audit_run(copy)
    shutil.rmtree(copy / "adapter")
    with pytest.raises(CheckpointError, match="has not finished"):
        audit_run(copy)


def test_a_run_that_began_from_another_is_measured_from_there(experiment, finished, tmp_path):
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    start = train(load_recipe(recipe), tmp_path / "align", stages=["align"], progress=False)
    later = train(load_recipe(recipe), tmp_path / "later", stages=["instruct"], start=start / "adapter", progress=False)
    found = audit_run(later)
    assert found.passed and not found.notes
    rows = {row["group"]: row["distance"] for row in found.movement}
    shutil.move(tmp_path / "align", tmp_path.parent / f"{tmp_path.name}-away")
    without = audit_run(later)
    assert len(without.notes) == 1 and without.passed
    assert {row["group"]: row["distance"] for row in without.movement}["projector"] > rows["projector"]
