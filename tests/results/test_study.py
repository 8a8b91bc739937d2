"""The study gives every variant the same effort, never asks test questions before it compares, and names what lacks."""

import json
import subprocess
from pathlib import Path

import pytest

from results import study
from results.keeping import commit
from tests.report.synthetic import write_comparison
from yarbus.core.recipe import load_recipe, variant
from yarbus.report.runs import read_comparison

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(study.HERE / "recipe.yaml")


def test_every_variant_tries_equally_many_rates(recipe):
    found = study.candidates(recipe)
    assert set(found) == set(recipe.compare.variants)
    assert len({len(some) for some in found.values()}) == 1
    for name, some in found.items():
        rates = [json.dumps({k: v for k, v in one.items() if "learning_rate" in k}) for one in some]
        assert len(set(rates)) == len(rates), name
        for one in some:
            assert load_recipe({**variant(recipe, name).resolved()}, one).stages["instruct"].steps == 300


def test_rates_are_chosen_on_a_split_that_is_not_compared_on(recipe):
    assert study.VALIDATION not in recipe.evaluation
    assert "validation" in study.VALIDATION


def test_chosen_rates_become_part_of_the_variants_and_nothing_else_does(recipe):
    tried = study.candidates(recipe)
    rates = {"variants": {name: {"chosen": some[0]} for name, some in tried.items()}}
    for name, changes in study.chosen_variants(recipe, rates).items():
        added = set(changes) - set(recipe.compare.variants[name])
        assert added and all("learning_rate" in key for key in added)


def test_the_committed_digest_has_a_seed_for_each_variant_or_says_which_were_not_run():
    digest = json.loads((RESULTS / "study" / "digest.json").read_text())
    comparison = json.loads((RESULTS / "study" / "comparison.json").read_text())
    assert digest["variants"] == comparison["variants"]
    cells = digest["summary"]["mean"]["cells"]
    for name in digest["variants"]:
        missing = [line for line in digest["not_run"] if line.startswith(f"{name}, ")]
        done = 0 if cells[name] is None else cells[name]["num_seeds"]
        assert done + len(missing) == study.SEEDS


def test_an_interrupted_study_names_the_planned_seeds_that_are_missing(tmp_path):
    comparison = read_comparison(write_comparison(tmp_path, skills={"frozen": 0.0, "full": 0.1}, num_scenes=5))
    assert study.summary_of(comparison)["not_run"] == [
        "frozen, seed 1",
        "full, seed 1",
        "frozen, seed 2",
        "full, seed 2",
    ]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a study in it, and one commit; the current folder lies elsewhere."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # a hook that runs the tests sets them
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(study, "HERE", tmp_path / "results" / "study")
    monkeypatch.setattr(study, "SHIPPED", tmp_path / "shipped" / "study")
    for name, value in (("CONFIG_GLOBAL", "/dev/null"), ("CONFIG_NOSYSTEM", "1"), ("AUTHOR_NAME", "a"),
                        ("AUTHOR_EMAIL", "a@b"), ("COMMITTER_NAME", "a"), ("COMMITTER_EMAIL", "a@b")):  # fmt: skip
        monkeypatch.setenv(f"GIT_{name}", value)
    for name in (
        "code.py",
        "other.py",
        "results/study/rates.json",
        "results/study/old.json",
        "shipped/study/digest.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before\n")

    def git(*arguments):
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Begin")
    return tmp_path, git


def test_only_the_study_is_committed_and_other_changes_stay_as_they_were(repository):
    folder, git = repository
    (folder / "code.py").write_text("staged\n")
    git("add", "code.py")
    (folder / "code.py").write_text("changed again\n")
    (folder / "other.py").write_text("changed\n")
    (folder / "results" / "note.txt").write_text("new\n")
    others = git("status", "--porcelain")
    (folder / "results" / "study" / "rates.json").write_text("after\n")
    (folder / "results" / "study" / "new.json").write_text("new\n")
    (folder / "results" / "study" / "old.json").unlink()
    (folder / "shipped" / "study" / "digest.json").write_text("after\n")
    commit("Not wanted", [study.HERE, study.SHIPPED], False)
    assert git("log", "--format=%s") == ["Begin"]
    commit("Run the study", [study.HERE, study.SHIPPED], True)
    assert git("log", "--format=%s") == ["Run the study", "Begin"]
    assert git("show", "--format=", "--name-status", "--no-renames") == [
        "A\tresults/study/new.json", "D\tresults/study/old.json", "M\tresults/study/rates.json",
        "M\tshipped/study/digest.json",
    ]  # fmt: skip
    assert git("status", "--porcelain") == others and git("show", ":code.py") == ["staged"]


def test_an_unchanged_study_makes_no_commit(repository):
    folder, git = repository
    (folder / "code.py").write_text("staged\n")
    git("add", "code.py")
    commit("Nothing new", [study.HERE, study.SHIPPED], True)
    assert git("log", "--format=%s") == ["Begin"]


def test_the_committed_study_draws_its_page_from_its_numbers():
    comparison = read_comparison(RESULTS / "study")
    assert comparison.variants
