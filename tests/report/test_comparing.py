"""The sections that compare variants."""

from tests.report.synthetic import MANY, MANY_TASKS, write_comparison
from yarbus.core.records import read_json, write_json
from yarbus.report.html import write_report


def test_a_page_of_few_variants_has_every_section(comparison_folder):
    page = write_report(comparison_folder).read_text()
    for anchor in ("scores", "differences", "without-one-task", "costs"):
        assert f'<section id="{anchor}"' in page
    for text in ("Variants by their mean", "Difference to frozen by task", "The mean without one task", "p values"):
        assert text in page


def test_many_variants_stand_below_each_other(tmp_path):
    folder = write_comparison(tmp_path, skills=MANY, tasks=MANY_TASKS, num_scenes=4)
    page = write_report(folder).read_text()
    scores = page.partition("Accuracy in percent")[2].partition("</table>")[0]
    assert scores.count("<tr") == 2 + len(MANY)
    assert "Difference to frozen, in points, task by task" in page  # one click away


def test_what_differs_besides_the_method_stands_in_the_header(tmp_path):
    folder = write_comparison(tmp_path, num_scenes=4)
    alignment = {"differs": {"stages.instruct.fraction": {"frozen": 1.0, "full": 0.5}}, "checked": []}
    write_json(folder / "comparison.json", {**read_json(folder / "comparison.json"), "alignment": alignment})
    head = write_report(folder).read_text().partition("</header>")[0]
    assert "Besides the method, variants differ in stages.instruct.fraction: 1.0 (frozen), 0.5 (full)." in head


def test_variants_without_frozen_or_full_are_compared_with_the_first(tmp_path):
    folder = write_comparison(tmp_path, skills={"dense": 0.0, "merged": 0.2}, num_scenes=10)
    assert "minus dense" in write_report(folder).read_text()
