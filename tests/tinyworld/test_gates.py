import json

import pytest

from yarbus.core.recipe import load_recipe
from yarbus.tinyworld import PLUGIN, TASKS
from yarbus.tinyworld.card import card
from yarbus.tinyworld.gates import gate_a, gate_b, gate_c, specialist

CEILING = dict.fromkeys(TASKS, 1.0)
FROZEN = dict.fromkeys(TASKS, 0.7)


@pytest.mark.parametrize(("digit", "colour", "met"), [(0.9, 0.98, True), (0.89, 1.0, False), (1.0, 0.97, False)])
def test_a_tower_must_know_digits_and_colours(digit: float, colour: float, met: bool):
    assert gate_a({"digit": digit, "colour": colour}, 0.99)["met"] is met


def test_one_task_at_chance_is_enough_to_miss_the_gate():
    assert gate_b(FROZEN, CEILING)["met"] is True
    assert gate_b({**FROZEN, "exist": 0.5}, CEILING)["met"] is False


def test_three_tasks_with_headroom_are_one_too_few():
    close = {**dict.fromkeys(TASKS, 0.95), "locate": 0.5, "size": 0.8, "lean": 0.85}
    assert gate_b(close, CEILING)["met"] is False
    found = gate_b({**close, "caption": 0.85}, CEILING)
    assert found["met"] is True and set(found["tasks_with_headroom"]) == {"locate", "size", "lean", "caption"}


def test_two_tasks_must_lose_eight_points_in_the_mix():
    full = {"locate": 0.5, "size": 0.5, "lean": 0.5}
    assert gate_c(full, {"locate": 0.6, "size": 0.55, "lean": 0.5})["met"] is False
    assert gate_c(full, {"locate": 0.6, "size": 0.6, "lean": 0.4})["tasks_in_conflict"] == ["locate", "size"]


def test_a_specialist_sees_as_many_questions_of_its_task_as_the_mix():
    recipe = load_recipe("tinyworld")
    only = specialist(recipe, "locate")
    mix, alone = recipe.stages["instruct"], only.stages["instruct"]
    assert alone.batch == mix.batch and abs(alone.steps * len(TASKS) - mix.steps) <= len(TASKS) / 2
    assert [source.path for source in alone.data] == ["tinyworld:train/locate.json"]


def test_the_card_says_what_was_measured_and_shouts_what_is_unmet():
    log = {"schedule": {"seed": 1, "steps": 2, "batch": 3}, "seconds": 90.0}
    pretraining = {"command": "make it", "parts": {"tower": log}}
    gates = {
        "seeds": [0, 1],
        "steps": 300,
        "a_probes": gate_a({"digit": 0.947, "colour": 1.0}, 0.995),
        "b_headroom": gate_b(FROZEN, CEILING),
        "c_conflict": gate_c({"locate": 0.5}, {"locate": 0.4}),
        "long_steps": 900,
        "c_conflict_long": gate_c({"size": 0.5, "lean": 0.5}, {"size": 0.6, "lean": 0.6}),
    }
    text = card(pretraining, gates, 1_170_000)
    assert "1,170,000 parameters" in text and "| 94.7 |" in text and "| locate | 300 | 50.0 | 40.0 |" in text
    assert "| size | 900 | 50.0 | 60.0 |" in text
    assert text.count("UNMET") == 1


def test_the_card_that_ships_is_the_one_that_its_records_make():
    pretraining = json.loads((PLUGIN.files / "pretraining.json").read_text())
    gates = json.loads((PLUGIN.files / "gates.json").read_text())
    shipped = (PLUGIN.files / "base" / "README.md").read_text()
    parameters = int(shipped.split("A LLaVA of ")[1].split(" ")[0].replace(",", ""))
    assert card(pretraining, gates, parameters) == shipped
