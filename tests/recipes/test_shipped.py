from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from yarbus import recipes
from yarbus.core.recipe import load_recipe, recipe_files, variant

RECIPES = Path(recipes.__file__).parent
SHIPPED = sorted(name for name, path in recipe_files().items() if path.parent == RECIPES)
BILLIONS = {"llava-1.5-7b": 7.06, "llava-1.5-13b": 13.35, "qwen2.5-vl-3b": 3.75}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_the_same_after_a_round_trip(name):
    recipe = load_recipe(name)
    assert load_recipe(recipe.resolved()) == recipe
    assert recipe.model.config is not None, "plan needs no hub"
    for entry in recipe.compare.variants if recipe.compare is not None else ():
        variant(recipe, entry)


def test_the_recipes_of_the_papers_models_are_shipped():
    llava = {"llava-1.5-7b", "full-llava-1.5-7b", "covft-llava-1.5-7b", "llava-1.5-13b", "covft-llava-1.5-13b"}
    assert llava | {"qwen2.5-vl-3b"} <= set(SHIPPED)


@pytest.mark.parametrize("name", BILLIONS)
def test_the_architecture_is_that_of_the_public_checkpoint(name):
    config = AutoConfig.for_model(**load_recipe(name).model.config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert round(sum(tensor.numel() for tensor in model.parameters()) / 1e9, 2) == BILLIONS[name]


def test_variants_of_llava_differ_in_the_vision_tower_only():
    frozen, covft = load_recipe("llava-1.5-7b"), load_recipe("covft-llava-1.5-7b")
    assert covft.stages["instruct"].train["vision"] == {"method": "covft"}
    assert covft.stages["instruct"].learning_rate["router"] == 10 * frozen.stages["instruct"].learning_rate["vision"]
    assert covft.stages["align"] == frozen.stages["align"]
