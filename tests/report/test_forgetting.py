"""Who gained in classification, who forgot instructions: the numbers."""

from dataclasses import replace

import pytest

from tests.report.panel import CLASSES, INSTRUCTIONS, MODELS, write_panel, write_sweep
from tests.report.synthetic import write_comparison
from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_json, write_json
from yarbus.report.digest import digest_from, digest_of
from yarbus.report.forgetting import forgetting_from, forgetting_of, is_classification, plain
from yarbus.report.runs import read_comparison, read_run
from yarbus.report.sweeps import read_all, read_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("panel"))


@pytest.fixture(scope="module")
def found(folder):
    return forgetting_of(*read_all(folder))


@pytest.mark.parametrize(
    ("label", "task", "expected"),
    [
        ("tinyworld/classify", "", True), ("tinyworld/classify-ood", "tints", True), ("file:classify.json", "", True),
        ("file:data/classification.json", "", True), ("mixed", "classify", True), ("imagenet", "", False),
        ("tinyworld/read", "", False), ("file:classify/read.json", "", False),
    ],
)  # fmt: skip
def test_a_name_says_whether_it_is_classification(label, task, expected):
    assert is_classification(label, task) is expected


def test_both_means_are_plain_means_over_tasks_of_a_kind(found):
    assert (set(found.classification), set(found.instruction)) == (set(CLASSES), set(INSTRUCTIONS))
    for point in found.points:
        mean = sum(point.tasks[task].value for task in CLASSES) / len(CLASSES)
        assert point.classification.value == pytest.approx(mean)
        mean = sum(point.tasks[task].value for task in INSTRUCTIONS) / len(INSTRUCTIONS)
        assert point.instruction.value == pytest.approx(mean)
        assert point.classification.low <= point.classification.value <= point.classification.high
        assert point.classification.num_seeds == 2


def test_differences_are_to_the_base(found):
    assert found.base == "base" and [point.name for point in found.variants] == list(MODELS)
    base, tuned = found.variants[0], found.variants[1]
    assert base.gained is None and base.kept is None
    assert tuned.gained.mean == pytest.approx(tuned.classification.value - base.classification.value)
    assert tuned.kept.mean == pytest.approx(tuned.instruction.value - base.instruction.value)
    assert tuned.gained.low > 0 > tuned.kept.high


def test_sweeps_of_several_seeds_are_one_curve(found):
    assert list(found.curves) == ["wise-ft"]
    assert [point.alpha for point in found.curves["wise-ft"]] == [0.0, 0.5, 1.0]
    values = [point.classification.value for point in found.curves["wise-ft"]]
    assert values == sorted(values)


def test_without_a_base_the_curve_or_frozen_or_the_first_is_it(tmp_path):
    tuned = {name: skills for name, skills in MODELS.items() if name != "base"}
    assert forgetting_of(*read_all(write_panel(tmp_path / "a", (0,), models=tuned))).base == "wise-ft at 0"
    assert forgetting_of(*read_all(write_panel(tmp_path / "b", (0,), sweeps=False, models=tuned))).base == "finetune"
    write_sweep(tmp_path / "b" / "curve", tmp_path / "b" / "pictures", 0, kind="adapter")
    assert forgetting_of(*read_all(tmp_path / "b")).base == "finetune"
    # The run that all variants began from is a base as well, adapter or not.
    shared = replace(read_comparison(tmp_path / "b"), shared=[read_run(tmp_path / "somewhere" / "base")])
    assert forgetting_of(shared, [read_sweep(tmp_path / "b" / "curve")]).base == "curve at 0"
    frozen = {"full": (0.1, 0.1), "frozen": (0.0, 0.0)}
    assert forgetting_of(*read_all(write_panel(tmp_path / "c", (0,), sweeps=False, models=frozen))).base == "frozen"


def test_the_kind_in_a_record_wins_over_the_name(tmp_path):
    folder = write_panel(tmp_path, (0,), sweeps=False)
    for path in tmp_path.glob("*/evaluation/final/tinyworld/read@official/scores.json"):
        write_json(path, {**read_json(path), "kind": "classification"})
    for path in tmp_path.glob("*/evaluation/final/tinyworld/classify@official/scores.json"):
        write_json(path, {**read_json(path), "kind": "instruction"})
    found = forgetting_of(*read_all(folder))
    assert set(found.classification) == {"classify-ood", "read"} and "classify" in found.instruction


def test_there_is_no_panel_without_both_kinds(tmp_path):
    assert forgetting_of(*read_all(write_comparison(tmp_path, num_scenes=3))) is None
    assert forgetting_of(read_comparison(tmp_path), []) is None


def test_a_blend_that_was_asked_less_is_left_out_and_named(tmp_path):
    folder = write_panel(tmp_path, (0,))
    for path in (folder / "wise-ft-seed0" / "alpha-0.5" / "evaluation").rglob("read@official"):
        for file in path.iterdir():
            file.unlink()
    found = forgetting_of(*read_all(folder))
    assert found.left_out == ["wise-ft at 0.5"]
    assert [point.alpha for point in found.curves["wise-ft"]] == [0.0, 1.0] and "read" in found.instruction


def test_a_benchmark_with_tasks_of_its_own_counts_once(tmp_path):
    folder = write_panel(tmp_path, (0,), sweeps=False)
    for path in folder.glob("*/evaluation/final/tinyworld/classify-ood@official/replies.jsonl"):
        lines = path.read_text().splitlines()
        changed = [line.replace('"task": "classify-ood"', f'"task": "kind{n % 3}"') for n, line in enumerate(lines)]
        path.write_text("\n".join(changed) + "\n")
    assert set(forgetting_of(*read_all(folder)).classification) == set(CLASSES)


def test_the_panel_survives_in_a_digest(folder, found):
    assert forgetting_from(plain(found), folder) == found
    digest = digest_from(digest_of(read_comparison(folder)), folder)
    assert digest.forgetting == found
    assert forgetting_from({}, folder) is None and plain(None) == {}
    with pytest.raises(CheckpointError, match="no panel"):
        forgetting_from({"variants": [{}]}, folder)


def test_the_sweep_alone_compares_with_where_it_begins(folder):
    sweep = read_sweep(folder / "wise-ft-seed0")
    found = forgetting_of(*read_all(sweep.folder))
    assert found.base == "wise-ft at 0" and found.variants == [] and len(found.curves["wise-ft"]) == 3
