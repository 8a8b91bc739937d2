"""Variants named on one line."""

import pytest

from tests.experiments import write_experiment
from yarbus.core.errors import ConfigError
from yarbus.core.recipe import load_recipe
from yarbus.studies.variants import safe_name, split_names, variants_of

VISION, LANGUAGE = "stages.instruct.train.vision", "stages.instruct.train.language"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(write_experiment(tmp_path_factory.mktemp("experiment")))


def test_commas_inside_brackets_split_nothing():
    assert split_names(" frozen, covft[merged,num_experts=8] ,,full ") == [
        "frozen",
        "covft[merged,num_experts=8]",
        "full",
    ]
    assert split_names("") == []


def test_names_are_methods_with_options_of_the_last_stage(recipe):
    found = variants_of(recipe, {"vision": "full,covft[merged,num_experts=8,expert_jitter=1.0e-3,first_block=null]"})
    options = {"routing": "merged", "num_experts": 8, "expert_jitter": 1e-3, "first_block": None}
    assert found == {
        "full": {VISION: {"method": "full"}},
        "covft-merged-num_experts-8-expert_jitter-1.0e-3-first_block-null": {VISION: {"method": "covft", **options}},
    }


def test_a_name_of_the_recipes_own_stands_for_that_variant(recipe):
    found = variants_of(recipe, {"vision": "covft,covft[dense]"})
    assert found["covft"] == recipe.compare.variants["covft"]
    assert found["covft-dense"] == {VISION: {"method": "covft", "routing": "dense"}}


def test_two_places_make_every_combination(recipe):
    found = variants_of(recipe, {"language": "frozen,full", "vision": "frozen,full"})
    assert list(found) == ["frozen+frozen", "frozen+full", "full+frozen", "full+full"]
    # The recipe's own "frozen" is a variant of the tower, and no word for the language model.
    assert found["full+frozen"] == {VISION: {"method": "full"}, LANGUAGE: {"method": "frozen"}}
    assert found["frozen+frozen"] == {VISION: "frozen", LANGUAGE: {"method": "frozen"}}
    assert found["full+full"] == {VISION: {"method": "full"}, LANGUAGE: {"method": "full"}}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"vision": "covtf"}, "unknown vision method or variant 'covtf': --vision; fix: use one of: covft"),
        ({"head": "full"}, "unknown head method or variant 'full'"),
        ({"vision": "covft[merged"}, "no name of a method"),
        ({"vision": "covft]"}, "no name of a method"),
        (
            {"vision": "covft[mergd]"},
            r"'mergd' is no value of an option of 'covft' - .*routing: .*merged.*option=value",
        ),
        ({"vision": "full[deep]"}, "none of its options takes a word"),
        ({"vision": "covft[merged,routing=dense]"}, "option 'routing' of 'covft' stands twice"),
        ({"vision": "covft[num_experts=]"}, None),
        ({"vision": "covft[expert_jitter=1e-3]"}, "is text in YAML"),
        ({"vision": "covft[method=lora]"}, r"'covft' cannot have another method .*; fix: write .* lora\["),
        ({"vision": "frozne"}, "use one of: frozen$"),
        ({"vision": "full,full"}, "two variants are called 'full'"),
        ({"vision": "covft[num_experts=2],covft[num_experts,=2]"}, "is no value"),
        ({"vision": " , "}, "no variant named: --vision"),
    ],
)
def test_what_cannot_be_meant_is_refused(places, message, recipe):
    if message is None:  # an empty value is null; whether the option takes it, the method says
        (changes,) = variants_of(recipe, places).values()
        assert changes[VISION]["num_experts"] is None
        return
    with pytest.raises(ConfigError, match=message):
        variants_of(recipe, places)


def test_a_word_of_two_options_is_refused_by_both(recipe, monkeypatch):
    from dataclasses import dataclass
    from typing import Annotated, Literal

    from yarbus.methods import METHODS

    @dataclass
    class Both:
        depth: Literal["none", "deep"] | None = None
        norm: Annotated[Literal["none", "all"], "a note"] = "none"
        rank: int = 4

    monkeypatch.setitem(METHODS["vision"]._entries, "both", Both)
    assert variants_of(recipe, {"vision": "both[deep,all]"})["both-deep-all"][VISION] == {
        "method": "both", "depth": "deep", "norm": "all",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="depth or norm; fix: write one of: depth=none, norm=none"):
        variants_of(recipe, {"vision": "both[none]"})


def test_two_parts_that_set_one_path_otherwise_are_refused(recipe):
    values = recipe.resolved()
    values["compare"]["variants"]["slow"] = {LANGUAGE: "frozen"}
    with pytest.raises(ConfigError, match=f"'slow\\+full' sets {LANGUAGE} twice"):
        variants_of(load_recipe(values), {"vision": "slow", "language": "full"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("covft[merged,num_experts=8]", "covft-merged-num_experts-8"),
        ("lora[ rank = 64 ]", "lora-rank-64"),
        ("a+b", "a-b"),
    ],
)
def test_names_are_safe_for_folders(text, name):
    assert safe_name(text) == name


def test_a_projector_replaces_the_one_that_earlier_stages_train(recipe):
    found = variants_of(recipe, {"projector": "frozen,full,qmoe[num_queries=null]"})
    last, align = "stages.instruct.train.projector", "stages.align.train.projector"
    qmoe = {"method": "qmoe", "num_queries": None}
    assert found["frozen"] == {last: {"method": "frozen"}} and found["full"] == {last: {"method": "full"}}
    assert found["qmoe-num_queries-null"] == {align: qmoe, last: qmoe}
    values = recipe.resolved()
    values["stages"]["align"]["train"] = {"vision": "full", "projector": "frozen"}
    assert list(variants_of(load_recipe(values), {"projector": "qmoe"})["qmoe"]) == [last]
