"""How a page was made."""

from pathlib import Path

from yarbus.report.made import machine_of, made, place_of


def test_a_machine_is_named_in_a_few_words():
    assert machine_of({"machine": {"cpus": 2, "accelerators": []}}) == "2 CPU cores, no GPU"
    assert machine_of({"machine": {"cpus": 16, "accelerators": ["H200", "H200"]}}) == "16 CPU cores, H200"
    assert machine_of({}) == ""


def test_an_absolute_folder_is_named_without_the_path_of_this_machine():
    assert place_of(Path("/home/someone/runs/a")) == "a"
    shown = made(command="", folder=Path("/home/someone/runs/a"), statistics="S.", environments=[])
    assert "yarbus report a" in shown and "someone" not in shown


def test_environments_that_differ_are_counted():
    one, other = {"python": "3.11", "run": "1"}, {"python": "3.12", "run": "2"}
    shown = made(command="c", folder=Path("a"), statistics="S.", environments=[one, {**one, "run": "3"}, other])
    assert "Environment (the same in 2 of 3 runs)" in shown
