"""Replies by task."""

from tests.report.synthetic import write_evaluation
from tests.report.test_summary import rows
from yarbus.report.answers import common_benchmark_prefix, groups_of
from yarbus.report.runs import read_comparison
from yarbus.report.summary import summarise


def test_a_file_with_several_tasks_has_one_line_for_each(tmp_path):
    mixed = rows("where", "110") + rows("what", "0000")
    write_evaluation(tmp_path, "file:test.json", mixed, None)
    summary = summarise(read_comparison(tmp_path))
    assert [line.task for line in summary.lines] == ["file:test.json · where", "file:test.json · what"]


def test_the_prefix_that_all_benchmarks_share_is_left_out(comparison_folder):
    assert [line.task for line in summarise(read_comparison(comparison_folder)).lines] == [
        "read", "locate", "exist", "colour", "caption",
    ]  # fmt: skip


def test_a_prefix_is_only_left_out_where_it_is_everywhere():
    assert common_benchmark_prefix(["tinyworld/read", "tinyworld/size"]) == "tinyworld/"
    assert common_benchmark_prefix(["tinyworld/read", "mmvp"]) == ""
    assert common_benchmark_prefix(["tinyworld/read", "file:a/b.json"]) == ""


def test_questions_without_a_scene_are_drawn_alone():
    answers = {("read", 0, "7"): {"group": None}, ("size", 0, "7"): {"group": 3}, ("size", 1, "7"): {"group": 3}}
    assert groups_of(answers, answers) == ["read 7", "scene 3", "scene 3"]
