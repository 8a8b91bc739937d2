"""Differences against numbers made by hand, and p values that know how many there are."""

import pytest

from tests.report.synthetic import write_evaluation
from tests.report.test_summary import by_hand, rows
from yarbus.report.cells import MEAN
from yarbus.report.contrasts import Contrast, references_of
from yarbus.report.intervals import Difference, holm
from yarbus.report.runs import read_comparison
from yarbus.report.summary import contrasts_between, summarise


def test_difference_pairs_only_questions_that_both_answered(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "00"}, "full": {"a": "0111"}}))
    assert summary.contrast("a", "frozen", "full").difference.mean == 0.5


def test_runs_without_a_common_seed_are_paired_by_question(tmp_path):
    write_evaluation(tmp_path / "frozen-seed0", "a", rows("a", "0000"), 0.25)
    write_evaluation(tmp_path / "full-seed1", "a", rows("a", "1110"), 0.25)
    write_evaluation(tmp_path / "full-seed2", "a", rows("a", "0110"), 0.25)
    summary = summarise(read_comparison([tmp_path / name for name in ("frozen-seed0", "full-seed1", "full-seed2")]))
    assert summary.contrast("a", "frozen", "full").difference.mean == pytest.approx(5 / 8)


def test_questions_of_one_scene_are_drawn_together(tmp_path):
    for variant, verdicts in (("frozen", "0" * 40), ("full", "1" * 20 + "0" * 20)):
        for scene in range(2):
            part = verdicts[20 * scene : 20 * scene + 20]
            write_evaluation(
                tmp_path / f"{variant}-seed0", f"b{scene}", rows(f"b{scene}", part, group=str(scene)), None
            )
    summary = summarise(read_comparison([tmp_path / "frozen-seed0", tmp_path / "full-seed0"]))
    mean = summary.contrast(MEAN, "frozen", "full").difference
    assert mean.mean == 0.5
    assert (mean.low, mean.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("variants", "references"),
    [
        (["covft", "full", "frozen"], ["frozen", "full"]),
        (["lora+full", "frozen+full", "frozen+lora"], ["frozen+full"]),
        (["dense", "merged"], ["dense"]),
        ([], []),
    ],
)
def test_variants_are_compared_with_frozen_and_full_or_else_with_the_first(variants, references):
    assert references_of(variants) == references


def test_p_values_are_corrected_over_variants_on_the_mean_and_over_variants_times_tasks_on_tasks(tmp_path):
    verdicts = {"frozen": "1000" * 15, "full": "1010" * 15, "vpt": "1000" * 14 + "1010"}
    comparison = by_hand(tmp_path, {name: {"a": text, "b": text[::-1]} for name, text in verdicts.items()})
    summary = summarise(comparison)
    for reference in ("frozen", "full"):
        own = [one for one in summary.contrasts if one.reference == reference]
        for family in ([one for one in own if one.task == MEAN], [one for one in own if one.task != MEAN]):
            assert len(family) == (2 if family[0].task == MEAN else 4)
            assert [one.p_holm for one in family] == holm([one.difference.p for one in family])
    assert [(c.reference, c.variant, c.task) for c in summary.contrasts[:3]] == [
        ("frozen", "full", "a"), ("frozen", "full", "b"), ("frozen", "full", MEAN),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "p_holm", "is_sure"), [(0.01, 0.01, True), (0.01, 0.2, False), (-0.01, 0.01, False), (0.01, None, True)]
)
def test_a_difference_is_sure_where_it_stays_clear_of_0_when_all_are_counted(low, p_holm, is_sure):
    assert Contrast("a", "frozen", "full", Difference(0.02, low, 0.03), p_holm).is_sure == is_sure


def test_pairs_are_compared_on_the_benchmarks_that_are_named_and_counted_together(tmp_path):
    verdicts = {
        "carpe": {"a": "1111" * 10, "b": "0000" * 10},
        "scalar": {"a": "1100" * 10, "b": "1000" * 10},
        "blind": {"a": "1110" * 10},
    }
    comparison = by_hand(tmp_path, verdicts)
    pairs = [("scalar", "carpe"), ("blind", "carpe"), ("levi", "carpe")]
    on_all, on_a = contrasts_between(comparison, pairs), contrasts_between(comparison, pairs, ["a"], "pictures")
    assert [(one.task, one.reference, one.difference.mean) for one in on_all] == [
        (MEAN, "scalar", pytest.approx(1 / 8)),  # (4/8 - 3/8) over two tasks
        (MEAN, "blind", pytest.approx(1 / 4)),
    ]
    assert [(one.task, one.reference, one.difference.mean) for one in on_a] == [
        ("pictures", "scalar", pytest.approx(1 / 2)),
        ("pictures", "blind", pytest.approx(1 / 4)),
    ]
    assert [one.p_holm for one in on_a] == holm([one.difference.p for one in on_a])
    assert contrasts_between(comparison, pairs[:1], ["c"]) == []
