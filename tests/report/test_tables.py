"""The table on a terminal."""

import json

from rich.console import Console

from tests.report.synthetic import MANY, MANY_TASKS, write_comparison
from tests.report.synthetic_diagnosis import ADVICE, conflict_record
from yarbus.report.runs import read_comparison
from yarbus.report.summary import summarise
from yarbus.report.tables import comparison_table, conflict_table, terminal_table, to_json


def shown(table, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_table_shows_chance_intervals_and_differences_within_80_columns(comparison_folder):
    comparison = read_comparison(comparison_folder)
    text = shown(terminal_table(comparison, summarise(comparison)))
    for word in ("chance", "mean of tasks", "minus frozen", "minus full", "covft-merged"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_holds_fractions_and_the_headline(comparison_folder):
    comparison = read_comparison(comparison_folder)
    found = json.loads(json.dumps(to_json(comparison, summarise(comparison)), allow_nan=False))
    assert 0 <= found["mean"]["variants"]["full"]["value"] <= 1
    assert found["headline"].endswith(".")
    assert {d["reference"] for d in found["differences"]} == {"frozen", "full"}
    assert all(0 < d["p"] <= d["p_holm"] <= 1 for d in found["differences"])
    assert {b["reference"] for b in found["beats"]} == {"frozen", "full"} and found["beats"][0]["num_tasks"] == 5
    assert [one["task"] for one in found["without_one_task"]] == ["read", "locate", "exist", "colour", "caption"]
    assert found["costs"][0]["variant"] == "frozen" and found["costs"][0]["step_seconds"] > 0


def test_variants_below_each_other_show_gain_and_price_within_80_columns(comparison_folder, tmp_path):
    comparison = read_comparison(comparison_folder)
    text = shown(comparison_table(comparison, summarise(comparison)))
    for word in ("variant", "mean", "above", "trained", "step", "memory", "p ", "clear", "×", "2 runs shared"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80
    many = read_comparison(write_comparison(tmp_path, skills=MANY, tasks=MANY_TASKS, num_scenes=4))
    text = shown(terminal_table(many, summarise(many)))
    assert "chance" not in text and max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in MANY if len(name) < 14)


def test_a_diagnosis_shows_advice_cosines_costs_and_what_is_missing_within_a_line(tmp_path):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(conflict_table(conflict_record()))
    text = console.export_text()
    for word in (ADVICE["headline"][:40], "ceiling", "cost of sharing", "gain of tuning", "needs --run"):
        assert word in text
    console.print(conflict_table(conflict_record(gap=None, missing=[])))
    assert "cost of sharing" not in console.export_text()
