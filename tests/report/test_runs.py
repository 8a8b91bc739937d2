"""Records read from a folder, whole or half finished."""

import pytest

from tests.report.synthetic import write_comparison, write_run
from tests.report.synthetic_diagnosis import diagnose, write_conflict
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.report.runs import find_folder, is_conflict, read_comparison, read_conflict, read_run


def test_a_comparison_reads_its_runs_by_variant_and_seed(comparison_folder):
    found = read_comparison(comparison_folder)
    assert found.variants == ["frozen", "full", "covft-dense", "covft-merged"]
    assert [run.seed for run in found.runs_of("full")] == [0, 1]
    run = found.runs_of("full")[0]
    assert {evaluation.benchmark for evaluation in run.evaluations} == {
        f"tinyworld/{task}" for task in ("read", "locate", "exist", "colour", "caption")
    }
    assert list(run.curves) == ["instruct"]
    assert [list(shared.curves) for shared in found.shared] == [["align"]]
    assert found.command == "yarbus quickstart --seeds 1"


def test_a_single_run_is_a_comparison_of_one_variant_named_by_its_folder(tmp_path):
    write_run(tmp_path / "covft-seed3", tmp_path / "pictures", skill=0.1, seed=3, num_scenes=3)
    found = read_comparison(tmp_path / "covft-seed3")
    assert (found.variants, found.seeds, len(found.runs)) == (["covft"], [3], 1)


def test_runs_named_one_by_one_stand_side_by_side(comparison_folder):
    found = read_comparison([comparison_folder / "full-seed0", comparison_folder / "frozen-seed0"])
    assert found.variants == ["full", "frozen"]


def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for place in ("a", "b"):
        write_run(tmp_path / place / "full-seed0", tmp_path / "pictures", skill=0.1, seed=0, num_scenes=3)
    found = read_comparison([tmp_path / "a" / "full-seed0", tmp_path / "b" / "full-seed0"])
    assert len(set(found.variants)) == 2


def test_stages_keep_the_order_of_the_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("stages: {second: {}, first: {}}\n")
    for stage in ("first", "second"):
        (tmp_path / "stages" / stage).mkdir(parents=True)
        (tmp_path / "stages" / stage / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert list(read_run(tmp_path).curves) == ["second", "first"]


@pytest.mark.filterwarnings("ignore:.*torn")
def test_a_torn_last_line_of_the_metrics_is_dropped(tmp_path):
    (tmp_path / "stages" / "instruct").mkdir(parents=True)
    (tmp_path / "stages" / "instruct" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_run(tmp_path).curves == {"instruct": [{"step": 1, "loss": 2.0}]}


def test_the_finished_model_is_shown_rather_than_a_checkpoint(tmp_path):
    for checkpoint in ("step-000100", "final"):
        folder = tmp_path / "evaluation" / checkpoint / "b@official"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text('{"benchmark": "b", "protocol": "official", "metrics": {}}')
    assert [e.checkpoint for e in read_run(tmp_path).final_evaluations] == ["final"]


def test_a_folder_without_records_is_refused_and_a_damaged_record_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such run"):
        read_comparison(tmp_path / "missing")
    with pytest.raises(ConfigError, match="neither a run nor a comparison"):
        read_comparison(tmp_path)
    folder = write_comparison(tmp_path / "c", skills={"full": 0.0}, num_scenes=2)
    for text in ("{", "[]"):
        (folder / "full-seed0" / "environment.json").write_text(text)
        with pytest.raises(CheckpointError, match="environment.json"):
            read_comparison(folder)
    (folder / "full-seed0" / "environment.json").unlink()
    (folder / "full-seed0" / "recipe.yaml").write_text("a: [")
    with pytest.raises(CheckpointError, match="recipe.yaml"):
        read_comparison(folder)
    (folder / "comparison.json").write_text('{"variants": []}')
    with pytest.raises(CheckpointError, match="no 'seeds'"):
        read_comparison(folder)


def test_records_of_a_diagnosis_are_read_with_their_run(tmp_path):
    diagnose(tmp_path, [], routed=True)
    run = read_run(tmp_path)
    assert set(run.analysis) == {"agreement", "contexts", "gaze", "routing", "swapped"}
    assert list(run.routing) == ["instruct"] and run.routing["instruct"][0]["step"] == 0
    (tmp_path / "analysis" / "gaze.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"gaze\.json"):
        read_run(tmp_path)


def test_a_conflict_folder_is_known_by_its_record_unless_it_is_a_comparison(tmp_path):
    assert not is_conflict(tmp_path)
    write_conflict(tmp_path)
    assert is_conflict(tmp_path)
    assert read_conflict(tmp_path).record["advice"]["verdict"] == "conflict"
    (tmp_path / "comparison.json").write_text("{}")
    assert not is_conflict(tmp_path)


def test_a_folder_is_found_as_written_or_beside_the_record(tmp_path):
    (tmp_path / "study").mkdir()
    assert find_folder("study", tmp_path) == tmp_path / "study"
    assert find_folder(str(tmp_path / "study"), tmp_path / "elsewhere") == tmp_path / "study"
    assert find_folder("gone", tmp_path) is None
