"""What a run of the matrix keeps of a check: the worst outcome of its forms."""

import json
from types import SimpleNamespace

from tests.matrix import cells
from tests.matrix.conftest import Recorder, outcome
from tests.matrix.run import failures, fingerprint, summary


def report(passed=False, skipped=False, why="", check="test_rows", when="call"):
    reason = ("file", 1, f"Skipped: {why}") if skipped else f"E       {why}\nmore"
    told = [("cell", ("vision covft", check))]
    return SimpleNamespace(passed=passed, skipped=skipped, longrepr=reason, when=when, user_properties=told)


def test_an_outcome_says_what_held_what_the_base_cannot_and_what_fails():
    assert outcome(report(passed=True)) == "holds"
    assert outcome(report(skipped=True, why="base cannot: ValueError: no")) == "base cannot: ValueError: no"
    assert outcome(report(skipped=True, why="not now")) == "skipped: not now"
    assert outcome(report(why="AssertionError: 1 != 2")) == "fails: AssertionError: 1 != 2"


def test_of_several_forms_of_a_check_the_worst_is_kept(tmp_path):
    recorder = Recorder(tmp_path / "found" / "one.json")
    for one in (
        report(passed=True, when="setup"),
        report(why="first"),
        report(passed=True),
        report(passed=True, check="test_other"),
        report(skipped=True, why="base cannot: no", check="test_other"),
        report(passed=True, check="test_fine"),
        SimpleNamespace(user_properties=[], passed=False, when="call"),
    ):
        recorder.pytest_runtest_logreport(one)
    recorder.pytest_sessionfinish()
    kept = json.loads((tmp_path / "found" / "one.json").read_text())["cases"]["vision covft"]
    assert kept == {"test_rows": "fails: first", "test_other": "base cannot: no", "test_fine": "holds"}


def test_failures_name_model_method_and_check():
    models = {"llava": {"methods": {"vision full": {"holds": 1, "fails": {"test_rows": "no"}}, "vision vpt": {}}}}
    assert failures(models) == ["llava, vision full, test_rows: no"]


def test_the_code_that_a_run_depends_on_has_one_fingerprint():
    assert fingerprint() == fingerprint() and len(fingerprint()) == 16


def test_a_record_does_not_keep_the_folder_of_one_run():
    why = "fails: cannot load: /scratch/pytest-of-someone/pytest-1/a0 - why"
    found = summary("llava", {"cases": {"vision full": {"test_rows": why}}})["methods"]["vision full"]
    assert found["fails"] == {"test_rows": "fails: cannot load: (folder) - why"}


def test_a_processor_that_its_class_cannot_load_excuses_with_its_reason(monkeypatch):
    def refuse(folder):
        raise ValueError(f"no class for {folder}")

    look = cells.not_loaded.__wrapped__
    assert look("llava") is None
    monkeypatch.setattr(type(cells.built("llava")[1]), "from_pretrained", refuse)
    assert look("llava") == "no class for (folder)"
