"""The study of methods: equal effort, no test question before the comparison, nothing planned that cannot run."""

import pytest

from results import bases as making
from results import methods as study
from yarbus.core.recipe import load_recipe, variant
from yarbus.core.records import read_record
from yarbus.methods.assemble import build
from yarbus.studies.alignment import check_recipes
from yarbus.tinyworld.base import build_llava, save_base
from yarbus.tinyworld.decoder import SlotReader
from yarbus.tinyworld.tower import Tagger
from yarbus.training.planning import plan_recipe

RATES = {
    "official": {"chosen": 5e-4},
    "tuned": {
        "variants": {
            name: {"chosen": {**study.SELECTION, **study.rates_of(entry, entry.tries[0])}}
            for name, entry in study.ENTRIES.items()
        }
    },
}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(study.HERE / "recipe.yaml")


def test_every_variant_that_chooses_rates_tries_equally_many():
    assert {len(entry.tries) for entry in study.ENTRIES.values() if entry.like is None} == {len(study.COMMON)}
    assert {entry.like for entry in study.ENTRIES.values()} - {None} <= study.ENTRIES.keys()


def test_rates_are_chosen_on_validation_questions_of_the_tasks_that_are_trained(recipe):
    assert not set(study.VALIDATION) & set(recipe.evaluation)
    tasks = {name.rpartition("/")[2] for name in recipe.evaluation}
    assert {name.rpartition("/")[2].removesuffix(".json") for name in study.VALIDATION} == tasks


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder in which the two other bases lie where the study looks for them, untrained."""
    folder = tmp_path_factory.mktemp("work")
    for name, tagger, reader in (
        ("narrow", Tagger(0, making.NARROW), SlotReader(0)),
        ("large", Tagger(0), SlotReader(0, **making.LARGE)),
    ):
        save_base(build_llava(tagger, reader, 0), folder / study.BASES / name)
    return folder


@pytest.mark.parametrize("part", study.PARTS, ids=lambda part: part.name)
def test_every_part_is_aligned_and_every_variant_of_it_can_be_trained(part, recipe, bases, monkeypatch):
    monkeypatch.chdir(bases)
    chosen = study.with_variants(study.recipe_of(part, recipe), study.variants_of(part, RATES), part.differs)
    check_recipes(chosen)
    for name in part.variants:
        for stage in plan_recipe(variant(chosen, name)):
            assert stage.plan.total("trained") > 0
    assert {name for pair in part.pairs for name in pair} <= set(part.variants)


def test_lora_of_a_high_rank_trains_about_as_much_as_covft_in_one_block(recipe):
    chosen = study.with_variants(recipe, study.variants_of(study.PARTS[6], RATES))
    trained = {
        name: sum(plan_recipe(variant(chosen, name))[-1].plan.groups().get(g, 0) for g in ("vision_new", "router"))
        for name in ("lora-large", "covft-block-5")
    }
    assert 0.8 < trained["lora-large"] / trained["covft-block-5"] < 1.25, trained


def test_the_plan_counts_no_run_twice(capsys):
    study.show_plan()
    lines = {line.split()[0]: int(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    assert lines["all"] == sum(count for name, count in lines.items() if name != "all")
    assert lines["contexts"] == 3 * 3  # frozen, full and covft are those of 'tuned'


def test_kinds_of_tasks_share_one_volume(recipe):
    parts = [part for part in study.PARTS if part.tasks]
    volumes = [sum(data.fraction for data in study.recipe_of(part, recipe).stages["instruct"].data) for part in parts]
    assert len(parts) == 4 and all(abs(volume - 2) < 1e-9 for volume in volumes)


def test_the_shipped_recipe_has_the_studys_mixture_variants_and_chosen_rates(recipe):
    shipped = load_recipe("tinyworld-methods")
    check_recipes(shipped)
    assert shipped.stages["instruct"].data == recipe.stages["instruct"].data and shipped.evaluation == recipe.evaluation
    chosen = read_record(study.HERE / "rates.json")["tuned"]["variants"]
    for name in shipped.compare.variants:
        ours = variant(shipped, name).stages["instruct"]
        theirs = load_recipe({**recipe.resolved(), "compare": None}, study.ENTRIES[name].changes).stages["instruct"]
        assert build("vision", ours.train["vision"]) == build("vision", theirs.train["vision"])
        for group in {"vision", "vision_new"} & set(plan_recipe(variant(shipped, name))[-1].rates):
            assert ours.peaks[group] == chosen[name]["chosen"][f"{study.RATE}.{group}"], (name, group)
