"""Variants differ in what is compared and in nothing else, by their recipes and by what their runs saw."""

import json
import shutil
from dataclasses import replace

import pytest

import yarbus
from tests.experiments import write_experiment
from tests.studies.mixtures import done_here
from yarbus.core.errors import ConfigError, DataError, MismatchError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json, write_json
from yarbus.studies import compare as comparing
from yarbus.studies.alignment import check_recipes, check_runs, seen_by
from yarbus.studies.compare import RECORD

VISION = "stages.instruct.train.vision"


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path / "experiment")


@pytest.fixture
def here(monkeypatch):
    """Runs are done in this process, and their works kept: a worker would spend seconds on imports."""
    given = []

    def done(works, after, jobs, progress):
        given[:] = works
        done_here(works, after, jobs, progress)

    monkeypatch.setattr(comparing, "work_off", done)
    return given


def with_variant(experiment, changes: dict, differs: tuple[str, ...] = ()):
    """The recipe with ``frozen`` and one more variant."""
    variants = {"frozen": {VISION: "frozen"}, "other": {VISION: "full", **changes}}
    values = load_recipe(experiment).resolved()
    return load_recipe({**values, "compare": {"variants": variants, "differs": list(differs)}})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stages.instruct.train.projector": "frozen", "stages.instruct.learning_rate.vision": 0.01},
        {"stages.instruct.learning_rate.vision": {"peak": 0.01, "block_decay": 0.9}},
        {"stages.align.train.projector": "frozen", "stages.align.learning_rate.projector": 0.1},
        {"question.text_cache": "elsewhere", "question.text_cache_mib": 5},
    ],
)
def test_methods_rates_and_a_projector_of_its_own_may_differ(changes, experiment):
    record = check_recipes(with_variant(experiment, changes))
    assert record["differs"] == {}
    assert record["compared"][f"{VISION}.method"] == {"frozen": "frozen", "other": "full"}
    assert {path.removesuffix(".peak") for path in record["compared"]} >= {
        path for path in changes if "learning_rate" in path
    }


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("stages.instruct.steps", 3, r"steps is 2 \(frozen\), 3 \(other\)"),
        ("stages.align.steps", 3, "stages.align.steps"),
        ("stages.instruct.fraction", 0.5, r"fraction is 1.0 \(frozen\), 0.5 \(other\)"),
        ("stages.instruct.data.0.fraction", 0.5, r"stages.instruct.data.0.fraction"),
        ("stages.instruct.batch", 8, "batch is 4"),
        ("stages.instruct.schedule", "linear", "schedule is cosine"),
        ("stages.instruct.precision", "bfloat16", "precision"),
        ("stages.align.learning_rate.projector", 0.1, r"projector is 0.01 \(frozen\), 0.1 \(other\)"),
        ("stages.align.learning_rate.vision", 0.1, r"vision is absent \(frozen\), 0.1 \(other\)"),
        ("question.train_turns", "all_human", "train_turns"),
        ("model.base", "elsewhere", "base is"),
        ("evaluation", [], "evaluation"),
        ("seed", 3, r"seed is 0 \(frozen\), 3 \(other\); fix: set the seed alike"),
    ],
)
def test_any_other_difference_is_refused_by_name_with_its_values(path, value, shown, experiment):
    with pytest.raises(ConfigError, match=f"variants differ in .*{shown}"):
        check_recipes(with_variant(experiment, {path: value}))


def test_many_differences_are_counted_and_the_message_stays_short(experiment):
    changes = {f"stages.instruct.{key}": value for key, value in {"steps": 3, "batch": 8, "log_every": 2}.items()}
    with pytest.raises(ConfigError, match=r"and 1 more - ") as caught:
        check_recipes(with_variant(experiment, {**changes, "stages.align.steps": 3}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("prefix", ["stages.instruct.fraction", "stages.instruct", "stages"])
def test_what_the_recipe_names_is_compared_and_told(prefix, experiment):
    record = check_recipes(with_variant(experiment, {"stages.instruct.fraction": 0.5}, (prefix,)))
    assert record["differs"]["stages.instruct.fraction"] == {"frozen": 1.0, "other": 0.5}


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("seed", "cannot differ in seed"),
        ("stages.instruct.fractoin", "stages.instruct.fraction"),
        ("stages.instruct.fra", "unknown setting"),
    ],
)
def test_a_path_that_names_nothing_or_the_seed_is_refused(prefix, message, experiment):
    with pytest.raises(ConfigError, match=message):
        check_recipes(with_variant(experiment, {}, (prefix,)))


def edit_data(experiment) -> None:
    path = experiment.parent / "pictures" / "rows.json"
    rows = json.loads(path.read_text())
    rows[0]["conversations"][1]["value"] = "blue"
    path.write_text(json.dumps(rows))


def test_what_runs_saw_is_recorded_and_shown(experiment, tmp_path, here):
    folder = yarbus.compare(experiment, seeds=2, folder=tmp_path / "c", progress=False)
    alignment = read_json(folder / RECORD)["alignment"]
    runs = {one["fact"]: one["runs"] for one in alignment["checked"] if one["stage"] != "align"}
    assert set(runs["data"]) == set(runs["start"]) == {f"{v}-seed{s}" for v in ("frozen", "covft") for s in (0, 1)}
    assert len(runs["base"]) == 5 and alignment["unknown"] == []
    assert alignment["compared"][f"{VISION}.method"] == {"frozen": "frozen", "covft": "covft"}
    assert "samples of 5 runs in 2 sets; base of 5 runs; start of 4 runs" in (folder / "report/index.html").read_text()

    shutil.rmtree(folder / "frozen-seed0" / "stages")
    assert check_runs(here)["unknown"] == ["frozen-seed0"]
    broken = next((folder / "covft-seed0").rglob("manifest.json"))
    broken.write_text("{}")
    assert check_runs(here)["unknown"] == ["frozen-seed0", "covft-seed0"]


def test_data_that_were_edited_between_two_sessions_are_told_before_any_work(experiment, tmp_path, here):
    yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)
    edit_data(experiment)
    del here[:]
    with pytest.raises(DataError, match=r"the data changed since 'frozen-seed0' was trained.*stage instruct"):
        yarbus.compare(experiment, folder=tmp_path / "c", progress=False)
    assert here == [] and not (tmp_path / "c" / "covft-seed0").exists()
    yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)  # needs them no more


def test_runs_that_saw_other_data_are_refused_by_name_however_that_happened(experiment, tmp_path, here, monkeypatch):
    yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)
    edit_data(experiment)
    monkeypatch.setattr(comparing, "refuse_other_data", lambda works: None)
    with pytest.raises(MismatchError, match=r"'covft-seed0' saw other samples than 'frozen-seed0'"):
        yarbus.compare(experiment, folder=tmp_path / "c", progress=False)
    assert "results" not in read_json(tmp_path / "c" / RECORD)


def test_runs_that_began_elsewhere_are_refused_by_name(experiment, tmp_path, here):
    folder = yarbus.compare(experiment, folder=tmp_path / "c", progress=False)
    place = folder / "covft-seed0" / "environment.json"
    write_json(place, {**read_json(place), "start": "elsewhere"})
    with pytest.raises(MismatchError, match="'covft-seed0' saw another start than 'frozen-seed0'"):
        check_runs(here)
    apart = [replace(work, start=tmp_path) if work.label == "covft-seed0" else work for work in here]
    starts = [one["runs"] for one in check_runs(apart)["checked"] if one["fact"] == "start"]
    assert starts == [["frozen-seed0"], ["covft-seed0"]]


def test_a_run_that_has_not_begun_saw_nothing(experiment, tmp_path, here):
    yarbus.compare(experiment, ["frozen"], folder=tmp_path / "c", progress=False)
    assert set(seen_by(here[-1])) == {"instruct"}
    assert seen_by(replace(here[-1], run=tmp_path / "nowhere")) == {}


def test_a_comparison_goes_on_where_its_text_cache_is_named_later(experiment, tmp_path, here):
    yarbus.compare(experiment, ["covft"], folder=tmp_path / "c", progress=False)
    cached = load_recipe(experiment, {"question.text_cache": str(tmp_path / "kept")})
    folder = yarbus.compare(cached, ["covft"], seeds=2, folder=tmp_path / "c", progress=False)
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 2
    checked = read_json(folder / RECORD)["alignment"]["checked"]
    assert [one["runs"] for one in checked if one["fact"] == "prompt"] == [["covft-seed0", "covft-seed1"]]


def test_fractions_of_data_are_compared_where_the_recipe_says_so(experiment, tmp_path, here):
    recipe = with_variant(
        experiment, {VISION: "frozen", "stages.instruct.fraction": 0.5}, ("stages.instruct.fraction",)
    )
    folder = yarbus.compare(recipe, folder=tmp_path / "c", progress=False)
    data = [one for one in read_json(folder / RECORD)["alignment"]["checked"] if one["fact"] == "data"]
    assert len({one["value"] for one in data if one["stage"] == "instruct"}) == 2
    assert (
        "Besides the method, variants differ in stages.instruct.fraction" in (folder / "report/index.html").read_text()
    )


@pytest.fixture
def apart(experiment):
    """The recipe with a benchmark of its own, so that questions can change and training data stay; and its file."""
    pictures = experiment.parent / "pictures"
    path = pictures / "test.json"
    shutil.copy(pictures / "rows.json", path)
    return load_recipe(experiment, {"evaluation": [f"file:{path}"]}), path


def edit_answer(path) -> None:
    path.write_text(path.read_text().replace('"two"', '"seven"'))


def test_a_benchmark_that_was_edited_between_two_sessions_is_told_before_any_work(apart, tmp_path, here):
    recipe, path = apart
    yarbus.compare(recipe, ["frozen"], folder=tmp_path / "c", progress=False)
    edit_answer(path)
    del here[:]
    with pytest.raises(
        DataError, match=r"benchmark changed since 'frozen-seed0' was asked.*test\.json.*another folder"
    ):
        yarbus.compare(recipe, folder=tmp_path / "c", progress=False)
    with pytest.raises(DataError, match="since 'frozen-seed0' was asked"):
        yarbus.compare(recipe, ["frozen"], seeds=2, folder=tmp_path / "c", progress=False)
    assert here == [] and not (tmp_path / "c" / "covft-seed0").exists()
    yarbus.compare(recipe, ["frozen"], folder=tmp_path / "c", progress=False)  # asks nothing


def test_runs_that_were_asked_otherwise_are_refused_by_name(apart, tmp_path, here, monkeypatch):
    recipe, path = apart
    yarbus.compare(recipe, ["frozen"], folder=tmp_path / "c", progress=False)
    edit_answer(path)
    monkeypatch.setattr(comparing, "refuse_other_data", lambda works: None)
    with pytest.raises(MismatchError, match=r"'covft-seed0' was asked other questions than 'frozen-seed0'.*evaluation"):
        yarbus.compare(recipe, folder=tmp_path / "c", progress=False)
    assert "results" not in read_json(tmp_path / "c" / RECORD)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("max_new_tokens", 3, "length of replies"), ("prompt", "other", "shown its questions")],
)
def test_replies_of_another_length_or_prompt_do_not_stand_beside_each_other(key, value, message, apart, tmp_path, here):
    folder = yarbus.compare(apart[0], ["frozen"], seeds=2, folder=tmp_path / "c", progress=False)
    checked = read_json(folder / RECORD)["alignment"]["checked"]
    assert {one["fact"] for one in checked if len(one["runs"]) == 2 and one["stage"] is None} >= {
        "questions", "length", "prompt",
    }  # fmt: skip
    (path,) = (folder / "frozen-seed1").rglob("scores.json")
    write_json(path, {**read_json(path), key: value})
    with pytest.raises(MismatchError, match=message):
        check_runs(here)
    write_json(path, {**read_json(path), "num_errors": 1})  # it will be asked again
    check_runs(here)


def test_a_variant_with_encoders_of_its_own_is_shown_its_questions_otherwise_and_stands_beside_others(
    apart, tmp_path, here
):
    folder = yarbus.compare(apart[0], ["frozen"], seeds=2, folder=tmp_path / "c", progress=False)
    (path,) = (folder / "frozen-seed1").rglob("scores.json")
    write_json(path, {**read_json(path), "prompt": "pictures for two encoders"})
    with pytest.raises(MismatchError, match="shown its questions"):
        check_runs(here)
    adapter = folder / "frozen-seed1" / "adapter" / "adapter.json"
    write_json(adapter, {**read_json(adapter), "vision_encoders": {"second": {"path": "elsewhere"}}})
    check_runs(here)
