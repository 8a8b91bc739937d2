"""Costs are read off the records, and what these do not say is None."""

import pytest

from tests.report.synthetic import write_comparison
from yarbus.core.errors import CheckpointError
from yarbus.core.records import write_json
from yarbus.report.costs import costs_of, method_text, rate_text, ratio, reference_of, seconds_per_step
from yarbus.report.runs import read_comparison


def test_a_step_takes_what_passes_between_two_lines_without_the_first():
    lines = [{"step": 1, "wall_seconds": 9.0}, {"step": 11, "wall_seconds": 19.0}, {"step": 16, "wall_seconds": 21.5}]
    assert seconds_per_step(lines) == [1.0, 0.5]
    assert seconds_per_step(lines[:1]) == seconds_per_step([{"step": 2}, {"event": "end"}]) == []


def test_costs_come_from_plan_metrics_and_environment(comparison_folder):
    found = {one.variant: one for one in costs_of(read_comparison(comparison_folder))}
    full, frozen = found["full"], found["frozen"]
    assert (full.vision_declared, full.vision_trained, full.all_trained) == (405_000, 364_500, 1_364_500)
    assert frozen.vision_trained == 0 and frozen.rates == {"language": 0.001}
    assert ratio(full.step_seconds, frozen.step_seconds) == pytest.approx(1.2)
    assert full.peak_bytes > frozen.peak_bytes and (full.jobs, full.threads) == ([2], [1])
    assert full.methods == {"vision": "full"}
    assert reference_of(list(found.values())) == frozen


def test_runs_without_a_plan_memory_or_number_of_jobs_still_have_a_step_time(tmp_path):
    folder = write_comparison(tmp_path, skills={"lora": 0.0, "vpt": 0.1}, num_scenes=2)
    for path in folder.glob("*-seed*/plan.json"):
        path.unlink()
    for path in folder.glob("*/stages/*/metrics.jsonl"):
        path.write_text(path.read_text().replace("peak_bytes", "other"))
    record = folder / "comparison.json"
    record.write_text(record.read_text().replace('"jobs"', '"other"'))
    found = costs_of(read_comparison(folder))
    assert [one.all_trained for one in found] == [one.peak_bytes for one in found] == [None, None]
    assert all(one.step_seconds for one in found) and [one.jobs for one in found] == [[], []]
    assert reference_of(found).variant == "lora"


def test_a_damaged_plan_is_named(tmp_path):
    folder = write_comparison(tmp_path, skills={"full": 0.0}, num_scenes=2)
    (folder / "full-seed0" / "plan.json").write_text('[{"stage": "instruct"}]')
    with pytest.raises(CheckpointError, match=r"plan\.json"):
        costs_of(read_comparison(folder))


def test_nothing_trained_costs_nothing_that_could_be_told(tmp_path):
    (tmp_path / "evaluation").mkdir()
    assert costs_of(read_comparison(tmp_path)) == []
    assert reference_of([]) is None


def test_a_method_is_told_with_the_options_that_others_of_its_name_set_otherwise():
    dense, merged = ({"method": "covft", "routing": word, "num_experts": 4} for word in ("dense", "merged"))
    assert method_text(dense, [dense, merged, {"method": "full"}]) == "covft[routing=dense]"
    assert method_text(dense, [dense, {"method": "full"}]) == "covft"


def test_a_rate_that_is_more_than_a_number_says_what():
    assert rate_text(5e-4) == "0.0005"
    assert rate_text({"peak": 5e-4, "block_decay": 0.9, "schedule": None}) == "0.0005 (block_decay 0.9)"
    assert ratio(1.0, None) is ratio(None, 1.0) is ratio(1.0, 0) is None


def test_fewer_than_three_intervals_are_no_step_time(tmp_path):
    folder = write_comparison(tmp_path, skills={"frozen": 0.0, "full": 0.1}, num_scenes=2)
    path = folder / "full-seed0" / "stages" / "instruct" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for number, is_known in ((4, True), (3, False)):
        path.write_text("".join(lines[:number]))
        found = {one.variant: one for one in costs_of(read_comparison(folder))}
        assert (found["full"].step_seconds is not None) == is_known and found["frozen"].step_seconds


def test_a_run_knows_itself_how_the_machine_was_shared_and_one_that_does_not_makes_it_unknown(tmp_path):
    folder = write_comparison(tmp_path, skills={"frozen": 0.0}, seeds=(0, 1), num_scenes=2)
    write_json(folder / "frozen-seed1" / "sharing.json", {"jobs": [1, 3], "threads": [2]})
    (found,) = costs_of(read_comparison(folder))
    assert (found.jobs, found.threads) == ([1, 2, 3], [1, 2])  # the other by the comparison's record, as once written
    record = folder / "comparison.json"
    record.write_text(record.read_text().replace('"jobs"', '"other"'))
    (found,) = costs_of(read_comparison(folder))
    assert (found.jobs, found.threads) == ([], [1, 2])
