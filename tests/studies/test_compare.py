"""A comparison starts every variant from one checkpoint, repeats nothing, and goes on where it stopped."""

import json

import pytest

import yarbus
from tests.experiments import write_experiment
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def comparison(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons") / "tiny"
    return yarbus.compare(experiment, seeds=2, folder=folder, jobs=2, progress=False)


def test_every_variant_and_seed_has_a_run_that_began_from_the_same_adapter(comparison):
    record = read_json(comparison / "comparison.json")
    assert record["variants"] == ["frozen", "covft"] and record["seeds"] == [0, 1]
    (align,) = comparison.glob("align-*")
    start = read_json(align / "adapter" / "adapter.json")["sha256"]
    assert set(record["runs"]) == {"frozen-seed0", "frozen-seed1", "covft-seed0", "covft-seed1"}
    for run in record["runs"].values():
        folder = comparison / run["folder"]
        assert read_json(folder / "environment.json")["start"] == start
        assert load_recipe(folder / "recipe.yaml").seed == run["seed"]
        assert list((folder / "evaluation").rglob("scores.json"))
    shas = {read_json(comparison / run / "adapter" / "adapter.json")["sha256"] for run in record["runs"]}
    assert len(shas) == 4


def test_the_report_and_its_record_name_the_command(comparison):
    page = (comparison / "report" / "index.html").read_text()
    assert "covft" in page and "yarbus.compare" in page


def test_a_second_call_repeats_nothing(comparison, experiment):
    before = {path: path.stat().st_mtime_ns for path in comparison.rglob("*.safetensors")}
    yarbus.compare(experiment, seeds=2, folder=comparison, jobs=2, progress=False)
    assert {path: path.stat().st_mtime_ns for path in comparison.rglob("*.safetensors")} == before


def test_lost_replies_are_asked_again_and_finished_training_is_kept(comparison, experiment):
    (replies,) = (comparison / "covft-seed1").rglob("replies.jsonl")
    lines = replies.read_text().splitlines(keepends=True)
    replies.write_text("".join(lines[:3]))
    scores = replies.with_name("scores.json")
    before = json.loads(scores.read_text())["metrics"]
    scores.unlink()
    adapter = comparison / "covft-seed1" / "adapter" / "adapter.safetensors"
    written = adapter.stat().st_mtime_ns
    yarbus.compare(experiment, seeds=2, folder=comparison, jobs=1, progress=False)
    assert len(replies.read_text().splitlines()) == len(lines)
    assert json.loads(scores.read_text())["metrics"] == before
    assert adapter.stat().st_mtime_ns == written


@pytest.mark.parametrize("change", [{"stages.instruct.steps": 3}, {"compare.variants.frozen": {"seed": 4}}])
def test_another_comparison_in_the_folder_is_refused_and_its_record_kept(change, comparison, experiment):
    before = (comparison / "comparison.json").read_bytes()
    with pytest.raises(ConfigError, match="name another folder"):
        yarbus.compare(load_recipe(experiment, change), folder=comparison, progress=False)
    assert (comparison / "comparison.json").read_bytes() == before


def test_an_error_in_a_worker_arrives_as_the_error_it_is(experiment, tmp_path):
    values = load_recipe(experiment).resolved()
    values["stages"]["instruct"]["data"][0]["path"] = str(tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"gone\.json"):
        yarbus.compare(values, folder=tmp_path / "c", jobs=1, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variants": ["frozn"]}, "unknown variant 'frozn'; fix: use one of: frozen"),
        ({"variants": []}, "no variant"),
        ({"seeds": 0}, "seeds is 0"),
        ({"variants": {"a": {"stages.instruct.train.visoin": "full"}}}, "visoin"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(arguments, message, experiment, tmp_path):
    with pytest.raises(ConfigError, match=message):
        yarbus.compare(experiment, folder=tmp_path / "c", progress=False, **arguments)
    assert not (tmp_path / "c").exists()
