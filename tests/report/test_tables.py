"""The table on a terminal."""

import json

from rich.console import Console

from tests.report.synthetic_diagnosis import ADVICE, conflict_record
from yarbus.report.runs import read_comparison
from yarbus.report.summary import summarise
from yarbus.report.tables import conflict_table, terminal_table, to_json


def test_table_shows_chance_intervals_and_differences_within_80_columns(comparison_folder):
    comparison = read_comparison(comparison_folder)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(comparison, summarise(comparison)))
    text = console.export_text()
    for word in ("chance", "mean of tasks", "minus frozen", "minus full", "covft-merged"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_holds_fractions_and_the_headline(comparison_folder):
    comparison = read_comparison(comparison_folder)
    found = json.loads(json.dumps(to_json(comparison, summarise(comparison)), allow_nan=False))
    assert 0 <= found["mean"]["variants"]["full"]["value"] <= 1
    assert found["headline"].endswith(".")
    assert {d["reference"] for d in found["differences"]} == {"frozen", "full"}


def test_a_diagnosis_shows_advice_cosines_costs_and_what_is_missing_within_a_line(tmp_path):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(conflict_table(conflict_record()))
    text = console.export_text()
    for word in (ADVICE["headline"][:40], "ceiling", "cost of sharing", "gain of tuning", "needs --run"):
        assert word in text
    console.print(conflict_table(conflict_record(gap=None, missing=[])))
    assert "cost of sharing" not in console.export_text()
