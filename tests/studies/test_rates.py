"""Rates are chosen with equal effort, on validation questions, and only from runs made for these candidates."""

import json

import pytest

from tests.studies.mixtures import done_here, write_mixture
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.recipe import load_recipe
from yarbus.core.records import read_json, write_json
from yarbus.evaluation.folder import benchmark_folder
from yarbus.studies import rates as module
from yarbus.studies.rates import choose_rates

RATE = "stages.instruct.learning_rate.projector"
SLOW, FAST = {RATE: 0.001}, {RATE: 0.002}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(write_mixture(tmp_path_factory.mktemp("experiment")), {"stages.align.train.vision": "frozen"})


@pytest.fixture(scope="module")
def validation(recipe):
    """A benchmark on other questions than the recipe's own."""
    test = recipe.evaluation[0].removeprefix("file:")
    path = test.replace("test.json", "validation.json")
    with open(test) as source, open(path, "w") as target:
        json.dump(json.load(source)[:2], target)
    return f"file:{path}"


@pytest.fixture
def scored(monkeypatch):
    """Runs that only score: what a function of (label, recipe) says for each task."""

    def begin(score):
        asked = []

        def work_off(works, after, jobs, progress):
            for work in works:
                asked.append((work, after.get(work.label)))
                for name in work.benchmarks:
                    metrics = {task: {"value": value} for task, value in score(work.label, work.recipe).items()}
                    place = benchmark_folder(work.run, name, "official")
                    place.mkdir(parents=True)
                    write_json(place / "scores.json", {"metrics": metrics})

        monkeypatch.setattr(module, "work_off", work_off)
        return asked

    return begin


def rate_of(values):
    return values["stages"]["instruct"]["learning_rate"]["projector"]


def test_the_best_mean_over_tasks_is_chosen_and_all_that_was_tried_is_kept(recipe, validation, tmp_path, scored):
    asked = scored(lambda label, values: {"accuracy": 0.0, "read": 0.9, "colour": 10 * rate_of(values)})
    candidates = {"frozen": [SLOW, FAST, SLOW], "covft": [FAST, SLOW, SLOW]}
    found = choose_rates(
        recipe, candidates, benchmarks=[validation], folder=tmp_path / "rates", seed=7, command="make", jobs=1,
        progress=False,
    )  # fmt: skip
    assert found == read_json(tmp_path / "rates" / "rates.json")
    assert {name: one["chosen"] for name, one in found["variants"].items()} == {"frozen": FAST, "covft": FAST}
    tried = found["variants"]["covft"]["tried"]
    assert [line["changes"] for line in tried] == candidates["covft"]
    assert tried[0]["mean"] == pytest.approx((0.9 + 0.02) / 2)
    assert set(tried[0]["tasks"]) == {f"{validation}/read", f"{validation}/colour"}
    assert (found["seed"], found["benchmarks"], found["command"]) == (7, [validation], "make")

    (before, _), *others = asked
    assert before.stages == ("align",) and before.benchmarks == ()
    assert [work.label for work, _ in others] == [f"{name}-try{n}" for name in candidates for n in range(3)]
    for work, waits_for in others:
        assert waits_for == before.label and work.start == before.run / "adapter" and work.stages == ("instruct",)
        assert work.recipe["seed"] == 7 and work.recipe["evaluation"] == [validation]
        assert (work.recipe["stages"]["instruct"]["train"]["vision"]["method"] == "covft") == ("covft" in work.label)


def test_equal_scores_take_the_first_and_accuracy_counts_where_it_is_all(recipe, validation, tmp_path, scored):
    scored(lambda label, values: {"accuracy": 0.5})
    found = choose_rates(
        recipe, {"frozen": [FAST, SLOW]}, benchmarks=[validation], folder=tmp_path, jobs=1, progress=False
    )
    assert found["variants"]["frozen"]["chosen"] == FAST
    assert found["variants"]["frozen"]["tried"][1]["tasks"] == {f"{validation}/accuracy": 0.5}


@pytest.mark.parametrize(
    ("candidates", "benchmarks", "message"),
    [
        ({}, ["file:v.json"], "no candidates"),
        ({"frozen": [], "covft": []}, ["file:v.json"], "no candidates"),
        ({"frozen": [SLOW], "covft": [SLOW, FAST]}, ["file:v.json"], "unequal effort - frozen 1, covft 2"),
        ({"frozen": [SLOW]}, [], "no validation questions"),
        ({"frozn": [SLOW]}, ["file:v.json"], "unknown variant 'frozn'; fix: use one of: frozen"),
        ({"frozen": [{"stages.instruct.learning_rat.projector": 1.0}]}, ["file:v.json"], "learning_rat"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_any_work(candidates, benchmarks, message, recipe, tmp_path, scored):
    asked = scored(lambda label, values: {"accuracy": 0.5})
    with pytest.raises(ConfigError, match=message):
        choose_rates(recipe, candidates, benchmarks=benchmarks, folder=tmp_path / "r", progress=False)
    assert not asked and not (tmp_path / "r").exists()


def test_test_questions_are_never_asked(recipe, tmp_path, scored):
    asked = scored(lambda label, values: {"accuracy": 0.5})
    with pytest.raises(ConfigError, match="chosen on test questions"):
        choose_rates(recipe, {"frozen": [SLOW]}, benchmarks=recipe.evaluation, folder=tmp_path, progress=False)
    assert not asked


def test_runs_of_other_candidates_are_never_taken_for_these_and_own_ones_not_repeated(
    recipe, validation, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "work_off", done_here)
    more = {"benchmarks": [validation], "folder": tmp_path / "rates", "jobs": 1, "progress": False}
    found = choose_rates(recipe, {"frozen": [SLOW]}, **more)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("adapter.safetensors")}
    assert len(written) == 2 and (tmp_path / "rates" / "frozen-try0" / "evaluation").is_dir()
    assert choose_rates(recipe, {"frozen": [SLOW]}, **more) == found
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(ConfigError, match=r"projector 0\.001 -> 0\.002"):
        choose_rates(recipe, {"frozen": [FAST]}, **more)
    assert read_json(tmp_path / "rates" / "rates.json") == found


def test_a_file_that_is_not_there_is_told_before_any_work(recipe, tmp_path, scored):
    asked = scored(lambda label, values: {"accuracy": 0.5})
    with pytest.raises(DataError, match=r"nothing\.json"):
        choose_rates(recipe, {"frozen": [SLOW]}, benchmarks=[f"file:{tmp_path}/nothing.json"], folder=tmp_path / "r")
    assert not asked
