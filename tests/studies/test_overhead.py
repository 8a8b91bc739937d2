"""Variants take turns, are recorded whole, and one that fails does not stop the others."""

import os
from types import SimpleNamespace

import pytest
import yaml

import yarbus
from tests.experiments import write_experiment
from tests.studies.hands import kill_itself, tell_back
from yarbus.core.errors import ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_record
from yarbus.studies import overhead as module
from yarbus.studies import workers

FEW = {"rounds": 2, "warmup": 1, "steps": 2, "answers": 2, "new_tokens": 4, "progress": False}
MADE_UP = {"random_weights": True, "tokens": 30, "answer_tokens": 4}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture
def asked(monkeypatch):
    """Turns are taken in this process; which variant's they were, in order."""
    names = []

    def here(function, turn, threads):
        names.append(turn.recipe["stages"]["instruct"]["train"]["vision"]["method"])
        return function(turn)

    monkeypatch.setattr(module, "in_own_process", here)
    return names


def pretended(**more):
    """A turn that took no time to take."""
    steps = [{"forward": 1.0, "backward": 2.0, "update": 0.5, "other": 0.5}] * 2
    answers = [{"tower": 1.0, "projector": 0.1, "prefill": 1.0, "decode": 3.0, "other": 0.1}] * 2
    sizes = {"training": 100, "answering": 50, "kept": 10}
    return {"steps": steps, "answers": answers, "bytes": sizes, "failed": {}, "load": 0.1, **more}


def test_a_record_holds_all_that_was_asked_for(experiment, asked, tmp_path):
    folder = yarbus.overhead(experiment, **FEW, **MADE_UP, folder=tmp_path / "o", note="a trial")
    record = read_record(folder / "overhead.json")
    assert asked == ["frozen", "covft", "covft", "frozen"]
    assert record["order"] == [["frozen", "covft"], ["covft", "frozen"]] and record["references"] == ["frozen"]
    assert record["kind"] == "overhead" and record["stage"] == "instruct" and record["note"] == "a trial"
    assert record["protocol"] == {key: FEW[key] for key in FEW if key != "progress"} | {"clock": "wall"}
    assert record["machine"]["packages"]["transformers"] and record["machine"]["machine"]["threads"] == 1
    for name, one in record["variants"].items():
        assert one["train"]["vision"]["method"] == name and one["trained"] > 0 and one["batch"] == 4
        assert set(one["turns"]) == {"0", "1"} and one["failed"] == {}
        assert one["planned_training_bytes"] > one["kept"]["bytes"] > 0
        for part in ("forward", "backward", "update", "other"):
            assert one["step"]["parts"][part]["value"] >= 0
        assert one["step"]["rows"] is one["answer"]["processor"] is None  # made up: nobody made them
    frozen, covft = record["variants"].values()
    assert frozen["answer"]["parts"]["text_encoder"] is None and covft["answer"]["parts"]["text_encoder"]["value"] > 0
    assert frozen["step"]["times"] == {} and covft["step"]["times"]["frozen"]["value"] > 0
    assert covft["trained"] > frozen["trained"]


def test_the_recipes_own_rows_are_measured_with_what_it_takes_to_make_them(experiment, asked, tmp_path):
    folder = yarbus.overhead(experiment, ["frozen"], **{**FEW, "rounds": 1}, folder=tmp_path / "o")
    one = read_record(folder / "overhead.json")["variants"]["frozen"]
    assert one["step"]["rows"]["value"] > 0 and one["answer"]["processor"]["value"] > 0
    assert one["planned_training_bytes"] is None


def test_a_variant_without_memory_is_recorded_and_not_tried_again_while_others_go_on(experiment, tmp_path, monkeypatch):
    taken = []

    def take(turn):
        taken.append(turn.recipe["stages"]["instruct"]["train"]["vision"]["method"])
        if taken[-1] == "covft":
            return {"failed": {"training": "out of memory: no room"}, "bytes": {}, "load": 0.1}
        return pretended()

    monkeypatch.setattr(module, "_taken", take)
    folder = yarbus.overhead(experiment, **{**FEW, "rounds": 3}, **MADE_UP, folder=tmp_path / "o")
    assert taken == ["frozen", "covft", "frozen", "frozen"]
    record = read_record(folder / "overhead.json")
    covft = record["variants"]["covft"]
    assert covft["failed"] == {"training": "out of memory: no room"} and covft["step"] is None
    assert len(record["variants"]["frozen"]["turns"]) == 3


def test_a_ratio_is_of_what_both_were_measured_at(experiment, tmp_path, monkeypatch):
    def take(turn):
        is_full = turn.recipe["stages"]["instruct"]["train"]["vision"]["method"] == "covft"
        scaled = [{part: 3 * seconds for part, seconds in step.items()} for step in pretended()["steps"]]
        return pretended(steps=scaled, bytes={"training": 250, "answering": 50, "kept": 10}) if is_full else pretended()

    monkeypatch.setattr(module, "_taken", take)
    folder = yarbus.overhead(experiment, **FEW, **MADE_UP, folder=tmp_path / "o", references=["covft"])
    frozen = read_record(folder / "overhead.json")["variants"]["frozen"]
    assert frozen["step"]["times"]["covft"]["value"] == pytest.approx(1 / 3)
    assert frozen["training"]["times"]["covft"] == 0.4 and frozen["answer"]["times"]["covft"]["value"] == 1.0


def test_a_process_of_its_own_gives_back_what_it_found():
    turn, process, threads = workers.in_own_process(tell_back, "a turn", 3)
    assert turn == "a turn" and process != os.getpid() and threads == "3"


def test_a_process_that_is_killed_is_recorded(monkeypatch):
    in_own_process = workers.in_own_process
    monkeypatch.setattr(module, "in_own_process", lambda _, turn, threads: in_own_process(kill_itself, turn, threads))
    assert module._taken(SimpleNamespace(threads=1)) == {"failed": {"turn": module.KILLED}, "bytes": {}}


def test_without_variants_a_recipe_stands_beside_a_frozen_and_a_full_tower(experiment):
    recipe = load_recipe(experiment)
    assert list(module.usual_variants(recipe)) == ["frozen", "covft"]
    values = yaml.safe_load(experiment.read_text())
    values["compare"] = None
    path = "stages.instruct.train.vision"
    own = {"frozen": {path: "frozen"}, "full": {path: "full"}}
    for method, wanted in (("full", ["frozen", "full"]), ("bitfit", ["frozen", "full", "bitfit"])):
        values["stages"]["instruct"]["train"]["vision"] = method
        found = module.usual_variants(load_recipe(values))
        assert list(found) == wanted and found["frozen"] == own["frozen"]
    assert found["bitfit"] == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"new_tokens": 1}, "new_tokens is 1.*at least 2"),
        ({"clock": "sun"}, "unknown clock 'sun'.*wall, processor"),
        ({"random_weights": False}, "tokens without random weights.*--random-weights"),
        ({"tokens": 3}, "a row of 3 tokens is too short"),
        ({"variants": ["full"]}, "unknown variant 'full'"),
        ({"references": ["full"]}, "no variant 'full' to refer to.*frozen, covft"),
        ({"variants": {"odd": {"stages.instruct.train.vision": {"method": "covtf"}}}}, "unknown vision method 'covtf'"),
        (
            {"variants": {"levi": {"stages.instruct.train.head": {"method": "levi"}}}},
            "no learning rate for group 'head'",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_turn(given, message, experiment, asked, tmp_path):
    with pytest.raises(ConfigError, match=message):
        yarbus.overhead(experiment, **{**FEW, **MADE_UP, "folder": tmp_path / "o", **given})
    assert asked == [] and not (tmp_path / "o").exists()


def test_a_folder_that_is_a_file_is_refused(experiment, asked, tmp_path):
    (tmp_path / "o").write_text("mine")
    with pytest.raises(ConfigError, match="a file"):
        yarbus.overhead(experiment, **FEW, folder=tmp_path / "o")
