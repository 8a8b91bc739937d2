"""What a trained run shows of itself, and what it says where it cannot."""

import json
import math
import shutil

import pytest
import yaml

from tests.studies.mixtures import TASKS, rows_of, write_mixture
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json
from yarbus.studies.diagnose import diagnose
from yarbus.training.stages import train

SMALL = {"samples": 16, "questions": 2, "progress": False}
COVFT = {"method": "covft", "num_experts": 3, "context_dim": 16, "expert_jitter": 1e-2}
RECORDED = {"vision_gradient": {"every": 1}, "routing": {"every": 1, "samples": 4}}
PARTS = {"contexts", "routing", "gaze", "swapped", "agreement"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("experiment"))


def trained(experiment, folder, vision, **changes):
    """A run of the last stage alone, from the base."""
    recipe = load_recipe(
        experiment,
        {"stages.align.train.vision": "frozen", "stages.instruct.train.vision": vision, "compare": None, **changes},
    )
    return train(recipe, folder / "run", stages=["instruct"], progress=False)


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return trained(experiment, tmp_path_factory.mktemp("runs"), COVFT, record=RECORDED, **{"stages.instruct.steps": 3})


@pytest.fixture(scope="module")
def analysis(run):
    return diagnose(run, **SMALL)


def test_every_part_is_made_of_a_run_with_a_router_and_recorded_gradients(run, analysis):
    assert analysis == run / "analysis"
    index = read_json(analysis / "index.json")
    assert set(index["made"]) == PARTS and index["missing"] == {}
    assert (index["samples"], index["questions"], index["seed"]) == (16, 2, 0)
    for part in PARTS:
        json.dumps(read_json(analysis / f"{part}.json"), allow_nan=False)
    contexts = read_json(analysis / "contexts.json")
    assert contexts["num_samples"] == 16 and {one["task"] for one in contexts["samples"]} == set(TASKS)
    assert contexts["by"] == "task" and contexts["untrained"]["context"]["k"] == contexts["context"]["k"]
    routing = read_json(analysis / "routing.json")
    assert routing["num_experts"] == 3 and set(routing["tasks"]) == set(TASKS)
    assert all(line["entropy"]["mean"] <= math.log(3) + 1e-6 for line in routing["by_block"])
    swapped = read_json(analysis / "swapped.json")
    assert {task: line["n"] for task, line in swapped["tasks"].items()} == dict.fromkeys(TASKS, 2)
    assert read_json(analysis / "agreement.json")["num_steps"] == 3


def test_diagnosing_again_gives_the_same_records_and_leaves_the_run_as_it_was(run, analysis):
    def contents(where):
        return {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}

    before = contents(run)
    diagnose(run, **SMALL)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("vision", "evaluation", "made", "words"),
    [
        ("full", ["file:test.json"], set(), {"swapped": "more than one routed expert"}),
        ({"method": "covft", "num_experts": 1}, ["file:test.json"], set(), {"contexts": "more than one routed expert"}),
        ({**COVFT, "routing": "uniform"}, ["file:test.json"], {"routing"}, {"swapped": "more than one routed expert"}),
        (
            {**COVFT, "context": "text"},
            [],
            {"contexts", "routing"},
            {"swapped": "names no benchmarks", "gaze": "alone"},
        ),
    ],
)
def test_what_a_run_cannot_show_is_told_with_what_it_needs(vision, evaluation, made, words, experiment, tmp_path):
    names = [name.replace("file:", f"file:{experiment.parent / 'pictures'}/") for name in evaluation]
    index = read_json(diagnose(trained(experiment, tmp_path, vision, evaluation=names), **SMALL) / "index.json")
    assert set(index["made"]) == made and set(index["missing"]) == PARTS - made
    assert {path.stem for path in (tmp_path / "run" / "analysis").glob("*.json")} == made | {"index"}
    assert "record: {vision_gradient" in index["missing"]["agreement"]
    assert all(text in index["missing"][part] for part, text in words.items())


def copied(run, folder, **changes):
    """The run with other settings in its recipe."""
    shutil.copytree(run, folder / "copy")
    path = folder / "copy" / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        if key == "path":
            recipe["stages"]["instruct"]["data"][0]["path"] = value
        else:
            recipe[key] = value
    path.write_text(yaml.safe_dump(recipe))
    return folder / "copy"


def test_data_of_one_task_leave_the_maps_out_and_the_swapped_question_in(experiment, run, analysis, tmp_path):
    path = experiment.parent / "pictures" / "one.json"
    path.write_text(json.dumps(rows_of("read", 8)))
    copy = copied(run, tmp_path, path=str(path))
    shutil.rmtree(copy / "analysis")
    index = read_json(diagnose(copy, **SMALL) / "index.json")
    assert set(index["made"]) == {"swapped", "agreement"}
    assert all("nothing to compare" in index["missing"][part] for part in ("contexts", "routing", "gaze"))


def test_benchmarks_that_cannot_be_swapped_and_gradients_too_few_are_told(experiment, run, tmp_path):
    turns = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": "one"}]
    path = experiment.parent / "pictures" / "text.json"
    path.write_text(json.dumps([{"id": "t", "conversations": turns}]))
    copy = copied(run, tmp_path, evaluation=[f"file:{path}"])
    for file in sorted((copy / "stages" / "instruct" / "gradients").glob("*.safetensors"))[1:]:
        file.unlink()
    index = read_json(diagnose(copy, **SMALL) / "index.json")
    assert "no picture" in index["missing"]["swapped"] and "between two" in index["missing"]["agreement"]
    assert set(index["made"]) == {"contexts", "routing", "gaze"}


def test_what_is_no_run_or_has_not_finished_is_refused_and_left_alone(run, tmp_path):
    with pytest.raises(ConfigError, match=r"not a run: .*nothing.*recipe\.yaml"):
        diagnose(tmp_path / "nothing", **SMALL)
    copy = copied(run, tmp_path)
    shutil.rmtree(copy / "adapter")
    shutil.rmtree(copy / "analysis", ignore_errors=True)
    shutil.rmtree(copy / "stages" / "instruct" / "gradients")
    with pytest.raises(CheckpointError, match="has not finished"):
        diagnose(copy, **SMALL)
    assert not (copy / "analysis").exists()
