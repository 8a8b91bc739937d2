"""Sweeps on disk as curves."""

import pytest

from tests.report.panel import write_panel, write_sweep
from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_json, write_json
from yarbus.report.html import write_report
from yarbus.report.sweeps import comparison_of, is_sweep, read_all, read_sweep, sweeps_in


def test_a_folders_name_says_curve_and_seed(tmp_path):
    folder = write_sweep(tmp_path / "wise-ft-seed2", tmp_path / "pictures", 2)
    found = read_sweep(folder)
    assert is_sweep(folder) and (found.name, found.seed) == ("wise-ft", 2)
    assert found.models == ("base", "finetune") and found.begins_with_base
    assert [run.variant for run in found.runs.values()] == ["wise-ft at 0", "wise-ft at 0.5", "wise-ft at 1"]


def test_sweeps_in_a_comparison_and_beside_a_run_are_found(tmp_path):
    folder = write_panel(tmp_path / "comparison")
    assert [sweep.seed for sweep in sweeps_in(folder)] == [0, 1]
    comparison, sweeps = read_all(folder)
    assert comparison.variants == ["base", "finetune", "carpe"] and len(sweeps) == 2
    comparison, sweeps = read_all([folder / "base-seed0", folder / "wise-ft-seed0"])
    assert comparison.variants == ["base"] and [sweep.seed for sweep in sweeps] == [0]
    comparison, sweeps = read_all([folder, folder / "wise-ft-seed0"])
    assert [sweep.seed for sweep in sweeps] == [0, 1]


def test_a_sweep_alone_has_a_page(tmp_path):
    folder = write_sweep(tmp_path / "curve", tmp_path / "pictures", 0)
    page = write_report(folder).read_text()
    assert "Gained and forgotten" in page and "curve at 0.5" in page and "yarbus interpolate a b" in page
    assert comparison_of([read_sweep(folder)]).name == "curve"


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path):
    write_json(tmp_path / "sweep.json", {"kind": "sweep", "points": []})
    assert "Nothing has been evaluated yet" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("point", [{"alpha": 0.5}, {"folder": "alpha-0"}, {"alpha": "x", "folder": "a"}, 3])
def test_a_damaged_record_is_named(point, tmp_path):
    folder = write_sweep(tmp_path / "curve", tmp_path / "pictures", 0, alphas=(0.0,))
    record = read_json(folder / "sweep.json")
    write_json(folder / "sweep.json", {**record, "points": [*record["points"], point]})
    with pytest.raises(CheckpointError, match=r"sweep\.json"):
        read_sweep(folder)
