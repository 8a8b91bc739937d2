"""A run with records is the same run, and its records are the same however often it was stopped."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests.training.runs import StopAt, Stopped, curves, final_hash
from yarbus.core.errors import CheckpointError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_jsonl
from yarbus.data.sample import Sample, Turn
from yarbus.models.attachment import parameter_groups
from yarbus.models.sketch import count_sketch, key_of
from yarbus.training import recording
from yarbus.training.recording import gradient_vector, probe_rows, write_tensors
from yarbus.training.stages import train

RECORD = {"vision_gradient": {"every": 2, "dim": 2000}, "routing": {"every": 3, "samples": 5}}
METADATA = {
    *("step", "dim", "layernorm_elements", "all_elements", "layernorm_kind", "all_kind"),
    *("layernorm_names_sha256", "all_names_sha256"),
}


class Gradients:
    """A reader that keeps each update's whole gradient of the eyes."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bool, int], dict[str, torch.Tensor]] = {}

    def __call__(self, step: int, model: nn.Module, sample_ids: list[str]) -> None:
        groups = parameter_groups(model)
        eyes = {name: p for group in ("vision", "vision_new", "router") for name, p in groups.get(group, {}).items()}
        self.seen[bool(eyes), step] = {name: p.grad.clone() for name, p in sorted(eyes.items())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture
def recorded_recipe(settings):
    return load_recipe({**settings, "record": RECORD})


@pytest.fixture
def whole(folder, recorded_recipe) -> Path:
    """The recipe trained with records, without interruption."""
    return train(recorded_recipe, folder / "run", progress=False)


def gradient_files(run: Path) -> dict[str, tuple[dict, dict]]:
    """File -> its numbers and its metadata; safetensors writes metadata in any order."""
    found = {}
    for path in sorted((run / "stages/instruct/gradients").iterdir()):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        found[path.name] = ({name: tensor.tolist() for name, tensor in load_file(path).items()}, metadata)
    return found


def routing(run: Path) -> list[dict]:
    return read_jsonl(run / "stages/instruct/routing.jsonl")


def test_recording_changes_no_weight_and_no_loss(whole, recipe, tmp_path):
    train(recipe, tmp_path / "plain", progress=False)
    assert final_hash(whole) == final_hash(tmp_path / "plain")
    assert curves(whole) == curves(tmp_path / "plain")
    assert not list((tmp_path / "plain").rglob("gradients")) and not list((tmp_path / "plain").rglob("routing.jsonl"))


def test_every_step_asked_for_is_recorded_and_no_other(whole):
    assert list(gradient_files(whole)) == [f"step-{step:06d}.safetensors" for step in (2, 4, 6)]
    assert [line["step"] for line in routing(whole)] == [0, 3, 6]


def test_a_stage_in_which_the_eyes_are_frozen_records_nothing(whole):
    assert not (whole / "stages/align/gradients").exists()
    assert not (whole / "stages/align/routing.jsonl").exists()


def test_files_hold_the_unclipped_gradient_exact_or_sketched(whole, recorded_recipe, tmp_path):
    gradients = Gradients()
    train(recorded_recipe, tmp_path / "run", progress=False, readers=[gradients])
    file = tmp_path / "run/stages/instruct/gradients/step-000004.safetensors"
    seen = gradients.seen[True, 4]
    norms = {name: grad for name, grad in seen.items() if "layer_norm" in name}
    assert len(norms) == 3 * 2 * 2  # three executed blocks, two norms each, weight and bias
    found = load_file(file)
    assert torch.equal(found["layernorm"], torch.cat([grad.flatten() for grad in norms.values()]))
    sketches = [count_sketch(grad, key_of(recording.SEED, "all", name), 2000) for name, grad in seen.items()]
    torch.testing.assert_close(found["all"], torch.stack(sketches).sum(dim=0))
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert set(metadata) == METADATA
    assert (metadata["step"], metadata["dim"]) == ("4", "2000")
    assert (metadata["layernorm_kind"], metadata["layernorm_elements"]) == ("exact", str(3 * 2 * 2 * 32))
    assert (metadata["all_kind"], metadata["all_elements"]) == ("sketch", str(sum(g.numel() for g in seen.values())))
    assert metadata["layernorm_names_sha256"] != metadata["all_names_sha256"]
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in seen.values()))
    assert float(found["all"].norm()) == pytest.approx(norm, rel=0.1)


@pytest.mark.parametrize("step", [1, 3, 5, 6, 7])
def test_an_interrupted_run_ends_with_the_same_records(whole, recorded_recipe, tmp_path, step):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recorded_recipe, run, progress=False, readers=[StopAt(2, step)])
    train(recorded_recipe, run, progress=False)
    assert gradient_files(run) == gradient_files(whole)
    assert routing(run) == routing(whole)
    assert final_hash(run) == final_hash(whole)


def test_what_a_resumed_run_will_record_again_is_dropped_even_if_it_records_no_more(recorded_recipe, recipe, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recorded_recipe, run, progress=False, readers=[StopAt(2, 6)])
    home = run / "stages/instruct"
    (home / "gradients" / ".step-000006.safetensors.new").write_bytes(b"torn")
    train(recipe, run, resume=home / "checkpoints/step-000002", progress=False)  # records may change on resume
    assert list(gradient_files(run)) == ["step-000002.safetensors"]
    assert [line["step"] for line in routing(run)] == [0]


def test_a_routing_line_says_how_each_block_shares_out_the_probe(whole):
    for line in routing(whole):
        assert [block["block"] for block in line["blocks"]] == [1, 2]
        for block in line["blocks"]:
            assert set(block) == {"block", "entropy", "max_entropy", "mean_weights", "by_task", "expert_distance"}
            assert block["max_entropy"] == pytest.approx(math.log(2))
            assert 0 < block["entropy"] <= block["max_entropy"] + 1e-9
            assert sum(block["mean_weights"]) == pytest.approx(1, abs=1e-6)
            assert block["by_task"] == {}  # these rows name no task
            assert block["expert_distance"] > 0
    first, *_, last = routing(whole)
    assert first["blocks"][0]["mean_weights"] != last["blocks"][0]["mean_weights"]
    assert first["blocks"][0]["expert_distance"] != last["blocks"][0]["expert_distance"]


def test_routing_is_told_by_task_and_in_evaluation_mode(settings, tmp_path):
    settings["stages"]["instruct"]["data"] = [
        {**settings["stages"]["instruct"]["data"][0], "task": task, "fraction": 0.5} for task in ("read", "find")
    ]
    run = train(load_recipe({**settings, "record": {"routing": {"every": 4}}}), tmp_path / "run", progress=False)
    for block in (block for line in routing(run) for block in line["blocks"]):
        assert list(block["by_task"]) == ["find", "read"]
        assert all(sum(weights) == pytest.approx(1, abs=1e-6) for weights in block["by_task"].values())
    assert not (run / "stages/instruct/gradients").exists()


@pytest.mark.parametrize(
    ("vision", "steps"),
    [({"routing": "uniform"}, [0, 3, 6]), ({"num_experts": 1}, None), ({"method": "full"}, None)],
)
def test_without_a_router_there_is_the_experts_distance_or_nothing(settings, tmp_path, vision, steps):
    change = {"stages.instruct.train.vision": {"method": "covft", **vision}, "record": RECORD}
    run = train(load_recipe(settings, change), tmp_path / "run", progress=False)
    assert list(gradient_files(run)) == [f"step-{step:06d}.safetensors" for step in (2, 4, 6)]
    if steps is None:
        assert not (run / "stages/instruct/routing.jsonl").exists()
        return
    assert [line["step"] for line in routing(run)] == steps
    for block in (block for line in routing(run) for block in line["blocks"]):
        assert block.pop("expert_distance") > 0
        assert block.pop("block") in (1, 2)
        assert set(block.values()) == {None}


def test_under_bfloat16_with_checkpointing_recording_still_changes_nothing(settings, tmp_path):
    change = {"stages.instruct.precision": "bfloat16", "stages.instruct.gradient_checkpointing": True}
    hashes = []
    for name, record in (("with", RECORD), ("without", {})):
        run = train(load_recipe(settings, {**change, "record": record}), tmp_path / name, progress=False)
        hashes.append(final_hash(run))
    assert hashes[0] == hashes[1]


def test_only_the_main_process_writes(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("yarbus.training.stages.is_main", lambda: False)
    monkeypatch.setattr("yarbus.training.folder.is_main", lambda: True)
    run = train(load_recipe({**settings, "record": RECORD}), tmp_path / "run", progress=False)
    assert not list((run / "stages").rglob("gradients")) and not list((run / "stages").rglob("routing.jsonl"))


def parameters(*sizes: int) -> dict[str, nn.Parameter]:
    tensors = {f"p{number}": nn.Parameter(torch.zeros(size)) for number, size in enumerate(sizes)}
    for number, tensor in enumerate(tensors.values()):
        tensor.grad = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
    return tensors


def test_a_vector_is_exact_up_to_dim_elements_and_sketched_beyond():
    tensors = parameters(3, 4)
    exact = torch.cat([tensor.grad for tensor in tensors.values()])
    assert torch.equal(gradient_vector(tensors, "all", 7), exact)
    assert gradient_vector(tensors, "all", 6).shape == (6,)
    assert not torch.equal(gradient_vector(tensors, "all", 6), gradient_vector(tensors, "layernorm", 6))


@pytest.mark.parametrize("dim", [2, 100])
def test_a_tensor_that_no_gradient_reached_counts_as_zeros(dim):
    tensors = parameters(3, 4)
    tensors["p0"].grad = None
    absent = gradient_vector(tensors, "all", dim)
    tensors["p0"].grad = torch.zeros(3)
    assert torch.equal(absent, gradient_vector(tensors, "all", dim))


def samples(*tasks: str | None, images: tuple[Path, ...] = (Path("a.png"),)) -> list[Sample]:
    turns = (Turn("user", "?"), Turn("assistant", "."))
    return [Sample(str(row), images, turns, task) for row, task in enumerate(tasks)]


def test_the_probe_is_spread_evenly_over_tasks_and_is_always_the_same():
    rows = samples(*["a"] * 50, *["b"] * 50, *["c"] * 2)
    chosen = probe_rows(rows, 12)
    assert chosen == probe_rows(rows, 12) == sorted(set(chosen))
    assert [sum(rows[row].task == task for row in chosen) for task in "abc"] == [5, 5, 2]
    assert probe_rows(rows, 1000) == list(range(102))
    assert max(probe_rows(samples(*[None] * 1000), 10)) > 500


def test_rows_without_a_picture_are_no_probe():
    assert probe_rows(samples("a", "b", images=()), 2) == []


def test_a_disk_that_refuses_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CheckpointError, match="step-000001") as error:
        write_tensors({"a": torch.zeros(1)}, {}, tmp_path / "missing" / "step-000001.safetensors")
    assert error.value.exit_code == 74
