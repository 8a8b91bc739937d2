"""A model from parts in a recipe, and its name."""

import pytest

from yarbus.core.errors import ConfigError
from yarbus.core.parts import Parts, is_parts, parts_of, title_of
from yarbus.core.recipe import load_recipe, stage_hash

STAGES = {
    "align": {
        "train": {"projector": "full"},
        "data": [{"source": "llava", "path": "a.json"}],
        "learning_rate": {"projector": 1e-3},
        "batch": 8,
    }
}
PARTS = {"vision_tower": "eyes", "language_model": "org/words"}


def recipe_of(model: dict, overrides=(), **more):
    return load_recipe({"model": model, "stages": STAGES, **more}, overrides)


def test_the_name_of_a_base_from_parts_says_all_of_it():
    parts = Parts(**PARTS, seed=3, config={"vision_feature_layer": -1})
    assert is_parts(parts.name) and not is_parts("org/name") and not is_parts("tinyworld:base")
    assert parts_of(parts.name) == parts
    assert title_of(parts.name) == "eyes + org/words" and title_of("org/name") == "org/name"
    assert parts_of(Parts(**PARTS).name) == Parts(**PARTS, projector="mlp2", seed=0, config=None)


def test_a_recipe_spells_out_projector_and_seed():
    recipe = recipe_of(PARTS, seed=4)
    assert recipe.resolved()["model"] == {**PARTS, "projector": "mlp2", "seed": 4, "config": None}
    assert load_recipe(recipe.resolved()) == recipe
    assert recipe.model.parts == parts_of(recipe.model.name) == Parts(**PARTS, seed=4)


def test_another_seed_of_a_resolved_recipe_leaves_the_base_what_it_is():
    recipe = recipe_of(PARTS, ["seed=4"])
    other = load_recipe({**recipe.resolved(), "seed": 9})
    assert other.seed == 9 and other.model == recipe.model
    assert recipe_of(PARTS, ["model.seed=7"], seed=4).model.seed == 7


def test_a_recipe_with_a_base_resolves_and_hashes_as_before_there_were_parts():
    recipe = recipe_of({"base": "tiny"})
    assert recipe.resolved()["model"] == {"base": "tiny", "config": None}
    assert (recipe.model.name, recipe.model.title, recipe.model.parts) == ("tiny", "tiny", None)


def test_the_parts_determine_a_stages_weights():
    hashes = {
        stage_hash(recipe_of(model, seed=seed), "align")
        for model in (PARTS, {**PARTS, "vision_tower": "other"}, {**PARTS, "config": {"a": 1}}, {"base": "x"})
        for seed in (0, 1)
    }
    assert len(hashes) == 8


def test_a_base_replaces_parts_and_parts_a_base_with_their_architecture():
    config = {"model_type": "llava"}
    named = recipe_of({**PARTS, "config": config}, ["model.base=tiny"])
    assert named.resolved()["model"] == {"base": "tiny", "config": None}
    built = recipe_of({"base": "tiny", "config": config}, ["model.vision_tower=eyes", "model.language_model=words"])
    assert built.model.parts == Parts(vision_tower="eyes", language_model="words") and built.model.config is None
    other = recipe_of({**PARTS, "config": {"a": 1}}, ["model.vision_tower=other"])
    assert other.model.config == {"a": 1} and other.model.language_model == "org/words"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({}, "model: no model named.*fix: give base, or vision_tower with language_model"),
        ({"base": "x", **PARTS}, "model: base and vision_tower are both given.*fix: keep base, or"),
        ({"base": "x", "projector": "mlp2"}, "base and projector are both given"),
        ({"vision_tower": "eyes"}, "lacks its language_model.*fix: add language_model"),
        ({"language_model": "words"}, "lacks its vision_tower"),
        ({**PARTS, "projector": "mlp3"}, "model.projector is 'mlp3'.*use one of: mlp2"),
        ({**PARTS, "tower": "eyes"}, "unknown key 'model.tower'.*use one of: vision_tower"),
        ({**PARTS, "seed": -1}, "model.seed is -1"),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(model, told):
    with pytest.raises(ConfigError, match=told):
        recipe_of(model)
