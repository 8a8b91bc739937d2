"""What a page says first, in words."""

from tests.report.synthetic import write_evaluation
from tests.report.test_summary import by_hand, rows
from yarbus.report.contrasts import Contrast
from yarbus.report.headline import against
from yarbus.report.intervals import Difference
from yarbus.report.runs import read_comparison, read_run
from yarbus.report.summary import summarise


def test_runs_without_a_common_question_are_not_compared(tmp_path):
    write_evaluation(tmp_path / "frozen-seed0", "a", rows("a", "0000"), 0.25)
    write_evaluation(tmp_path / "full-seed0", "a", rows("b", "1110"), 0.25)
    summary = summarise(read_comparison([tmp_path / name for name in ("frozen-seed0", "full-seed0")]))
    assert "frozen answered other questions" in summary.headline
    assert summary.contrasts == []


def test_headline_says_too_short_when_the_interval_includes_zero(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "1100" * 10}, "full": {"a": "1101" + "1100" * 9}}))
    assert "full leads" in summary.headline
    assert "too short to separate full and frozen" in summary.headline
    assert summary.details[0] == "Against frozen: full is not separated, its difference includes 0."


def test_headline_does_not_say_too_short_when_the_interval_leaves_zero_out(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "1000" * 10}, "full": {"a": "1110" * 10}}))
    assert "full is ahead with 75.0 %" in summary.headline
    assert "too short" not in summary.headline
    assert summary.details[0] == "Against frozen: full is better."


def test_a_leader_among_many_is_held_against_all_of_them(tmp_path):
    two = {"vpt": {"a": "1" * 6 + "0" * 34}, "full": {"a": "1" * 11 + "0" * 29}}
    alone = summarise(by_hand(tmp_path / "two", two)).headline
    assert "full is ahead" in alone and "clear of the next best, vpt" in alone
    many = {f"m{number}": two["vpt"] for number in range(9)}
    headline = summarise(by_hand(tmp_path / "many", two | many)).headline
    assert "full leads with 27.5 % on a, but not for sure once all 10 others count" in headline
    assert "too short to separate full, " in headline


def test_equal_models_are_not_separated(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "10"}, "full": {"a": "10"}}))
    assert "too short to separate frozen and full" in summary.headline


def test_a_single_training_seed_is_told(tmp_path, comparison_folder):
    once = summarise(by_hand(tmp_path, {"frozen": {"a": "10"}, "full": {"a": "10"}}))
    assert any("trained once" in sentence for sentence in once.details)
    assert not any("trained once" in sentence for sentence in summarise(read_comparison(comparison_folder)).details)


def test_nothing_evaluated_is_said_in_words(tmp_path):
    (tmp_path / "stages").mkdir()
    assert read_run(tmp_path).evaluations == []
    assert "No scores yet" in summarise(read_comparison(tmp_path)).headline


def contrast(variant: str, low: float, high: float, p_holm: float) -> Contrast:
    return Contrast("mean", "frozen", variant, Difference((low + high) / 2, low, high, p_holm / 4), p_holm)


def test_what_is_clear_alone_and_not_when_all_are_counted_is_no_claim():
    found = [
        contrast("full", 0.01, 0.03, 0.01),
        contrast("lora", 0.001, 0.03, 0.2),
        contrast("vpt", -0.03, -0.001, 0.2),
        contrast("bitfit", -0.01, 0.01, 1.0),
    ]
    assert against("frozen", "mean", found) == (
        "Against frozen: full is better; lora is ahead and vpt is behind, but not for sure once all 4 variants count; "
        "bitfit is not separated, its difference includes 0."
    )
    assert against("full", "mean", found) == ""
