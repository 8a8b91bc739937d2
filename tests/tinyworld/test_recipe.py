from yarbus.core.plugins import resolve
from yarbus.core.recipe import load_recipe, variant
from yarbus.methods.assemble import build_all
from yarbus.tinyworld import PLUGIN, TASKS


def test_the_shipped_recipe_compares_the_four_ways_under_one_configuration():
    recipe = load_recipe("tinyworld")
    assert list(recipe.compare.variants) == ["frozen", "full", "covft-dense", "covft-merged"]
    for name in recipe.compare.variants:
        only = variant(recipe, name)
        build_all(only.stages["instruct"].train)
        without = only.model_copy(update={"stages": {}}).resolved() | {"compare": None}
        assert without == recipe.model_copy(update={"stages": {}, "compare": None}).resolved()
        assert only.stages["align"] == recipe.stages["align"]


def test_the_recipe_evaluates_every_instruction_task():
    assert load_recipe("tinyworld").evaluation == [f"tinyworld/{task}" for task in TASKS]
    assert set(load_recipe("tinyworld").evaluation) < set(PLUGIN.benchmarks)


def test_base_and_text_encoder_are_found_where_the_recipe_says():
    recipe = load_recipe("tinyworld")
    assert resolve(recipe.model.base) == PLUGIN.files / "base"
    assert resolve(recipe.question.text_encoder) == PLUGIN.files / "text_encoder"
