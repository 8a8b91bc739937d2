"""The study gives every variant the same effort, never asks test questions before it compares, and names what lacks."""

import importlib.util
import json
from pathlib import Path

import pytest

from yarbus.core.recipe import load_recipe, variant
from yarbus.report.runs import read_comparison

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", RESULTS / "study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(study):
    return load_recipe(study.HERE / "recipe.yaml")


def test_every_variant_tries_equally_many_rates(study, recipe):
    found = study.candidates(recipe)
    assert set(found) == set(recipe.compare.variants)
    assert len({len(some) for some in found.values()}) == 1
    for name, some in found.items():
        rates = [json.dumps({k: v for k, v in one.items() if "learning_rate" in k}) for one in some]
        assert len(set(rates)) == len(rates), name
        for one in some:
            assert load_recipe({**variant(recipe, name).resolved()}, one).stages["instruct"].steps == 300


def test_rates_are_chosen_on_a_split_that_is_not_compared_on(study, recipe):
    assert study.VALIDATION not in recipe.evaluation
    assert "validation" in study.VALIDATION


def test_chosen_rates_become_part_of_the_variants_and_nothing_else_does(study, recipe):
    tried = study.candidates(recipe)
    rates = {"variants": {name: {"chosen": some[0]} for name, some in tried.items()}}
    for name, changes in study.chosen_variants(recipe, rates).items():
        added = set(changes) - set(recipe.compare.variants[name])
        assert added and all("learning_rate" in key for key in added)


def test_the_committed_digest_has_a_seed_for_each_variant_or_says_which_were_not_run(study):
    digest = json.loads((RESULTS / "study" / "digest.json").read_text())
    comparison = json.loads((RESULTS / "study" / "comparison.json").read_text())
    assert digest["variants"] == comparison["variants"]
    cells = digest["summary"]["mean"]["cells"]
    for name in digest["variants"]:
        missing = [line for line in digest["not_run"] if line.startswith(f"{name}, ")]
        done = 0 if cells[name] is None else cells[name]["num_seeds"]
        assert done + len(missing) == len(comparison["seeds"])


def test_the_committed_study_draws_its_page_from_its_numbers(study):
    comparison = read_comparison(RESULTS / "study")
    assert comparison.variants
