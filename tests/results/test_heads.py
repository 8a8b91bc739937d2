"""The study of heads: equal effort, no test question before the comparison, nothing planned that cannot run."""

import pytest

from results import heads as study
from tests.report.synthetic import write_evaluation
from yarbus.core.recipe import load_recipe, variant
from yarbus.core.records import read_record, write_json
from yarbus.studies.alignment import check_recipes
from yarbus.studies.work import shared_start
from yarbus.training.planning import plan_recipe

RATES = {
    "variants": {
        name: {"chosen": {**study.SELECTION, **study.rates_of(entry, study.RATES[0])}}
        for name, entry in study.ENTRIES.items()
    }
}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(study.HERE / "recipe.yaml")


@pytest.fixture(scope="module")
def chosen(recipe):
    return study.with_variants(recipe, study.variants_of(RATES), study.PART.differs)


def test_every_variant_that_chooses_rates_tries_equally_many(recipe, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("yarbus.studies.rates.choose_rates", lambda recipe, tries, **_: asked.update(tries))
    monkeypatch.setattr(study, "HERE", tmp_path)
    monkeypatch.setattr(study, "write_json", lambda *_: None)
    study.choose(recipe, tmp_path, None)
    assert asked.keys() == {name for name, entry in study.ENTRIES.items() if entry.like is None}
    assert {len(tries) for tries in asked.values()} == {len(study.RATES)}
    assert {entry.like for entry in study.ENTRIES.values()} - {None} <= study.ENTRIES.keys()


def test_rates_that_were_chosen_stand(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("yarbus.studies.rates.choose_rates", lambda *_, **__: pytest.fail("chosen again"))
    study.choose(recipe, tmp_path, None)
    assert set(read_record(study.HERE / "rates.json")["variants"]) == {
        name for name, entry in study.ENTRIES.items() if entry.like is None
    }


def test_rates_never_see_a_question_that_is_reported_nor_a_shifted_picture(recipe):
    assert not set(study.VALIDATION) & set(recipe.evaluation)
    assert not any("ood" in name for name in study.VALIDATION)


def test_all_variants_begin_with_one_model_and_can_be_trained(chosen, tmp_path):
    check_recipes(chosen)
    starts = {shared_start(variant(chosen, name), tmp_path).label for name in study.ENTRIES}
    assert len(starts) == 1
    for name in study.ENTRIES:
        for stage in plan_recipe(variant(chosen, name)):
            assert stage.plan.total("trained") > 0
    assert {name for pair in study.PART.pairs for name in pair} <= set(study.ENTRIES)


def test_the_weight_of_a_question_waits_for_the_second_half_and_the_eyes_router_does_not(chosen):
    rate = {name: variant(chosen, name).stages["mixed"].rates.get("router") for name in study.ENTRIES}
    assert rate["carpe"].frozen_fraction == rate["scalar"].frozen_fraction == 0.5
    assert rate["covft"].frozen_fraction == rate["covft-carpe"].frozen_fraction == 0 and rate["projector"] is None


def test_parts_of_the_tasks_are_benchmarks_that_are_asked(recipe):
    asked = {name.removeprefix("tinyworld/") for name in recipe.evaluation}
    assert all(set(some) <= asked for some in study.PART.scopes.values())
    assert set().union(*study.PART.scopes.values()) == asked


def test_one_row_in_eight_is_a_picture_to_classify(recipe):
    shares = [entry.share for entry in recipe.stages["mixed"].data]
    assert shares == [None, 0.125]


def test_a_reply_that_names_the_label_alone_is_right_in_any_form_when_judged_by_name(tmp_path):
    said = {"carpe": ["7", "7", "red 7"], "scalar": ["red 7", "blue 2", ""], "base": ["a 7 and a 2", "7 or 7", "17"]}
    for name, replies in said.items():
        kept = [
            {"sample_id": str(number), "task": "classify", "group": str(number), "reply": reply, "answer": "7",
             "is_correct": reply == "7", "error": None}
            for number, reply in enumerate(replies)
        ]  # fmt: skip
        for task in ("tinyworld/classify", "tinyworld/read"):
            write_evaluation(tmp_path / f"{name}-seed1", task, kept, 0.1)
    runs = {f"{name}-seed1": {"variant": name, "seed": 1} for name in said}
    write_json(tmp_path / "comparison.json", {"variants": list(said), "seeds": [1], "runs": runs})
    found = study.named(tmp_path)
    assert {name: row.keys() for name, row in found["values"].items()} == {name: {"classify"} for name in said}
    shares = {name: row["classify"]["value"] for name, row in found["values"].items()}
    assert shares == {"carpe": 1.0, "scalar": pytest.approx(1 / 3), "base": pytest.approx(1 / 3)}
    assert [(one["task"], one["reference"], one["variant"]) for one in found["contrasts"]] == [
        ("in distribution", "scalar", "carpe")
    ]
    assert found["contrasts"][0]["difference"]["mean"] == pytest.approx(2 / 3)


def test_the_plan_is_printed(capsys):
    study.show_plan()
    lines = {line.split()[0]: int(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    assert lines == {"rates": 45, "mixed": 57, "curve": 15}
