"""The page of a diagnosis: advice first, what is missing named, nothing drawn that was not measured."""

import re
import subprocess
import sys

import pytest

from tests.report.synthetic_diagnosis import (
    ADVICE,
    TASKS,
    conflict_record,
    diagnose,
    drift,
    gap,
    gradients,
    make_pictures,
    write,
    write_conflict,
)  # fmt: skip
from tests.report.test_html import HOSTILE, Balance
from yarbus.report.html import write_report
from yarbus.report.runs import read_conflict


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """A conflict folder with a trained run beside it, and its page."""
    folder = tmp_path_factory.mktemp("conflict")
    diagnose(folder / "dense-seed0", make_pictures(folder / "pictures"), routed=True)
    write_conflict(folder, run="dense-seed0", missing=[])
    return write_report(folder).read_text()


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_advice_stands_on_top_and_every_part_below_it(diagnosed):
    assert diagnosed.index(ADVICE["headline"]) < diagnosed.index('class="advice"') < diagnosed.index("<main")
    assert headings(diagnosed) == [
        "Behind the advice", "By depth", "Task by task", "Weight changes", "Cost of sharing", "Swapped questions",
        "Routing", "Contexts", "Gaze", "Gradient agreement", "The data", "How this was made",
    ]  # fmt: skip
    assert "7 groups by task \N{MIDDLE DOT} 1,792 samples \N{MIDDLE DOT} 6 blocks" in diagnosed
    balance = Balance()
    balance.feed(diagnosed)
    assert balance.open == []


def test_every_figure_has_a_caption_a_command_and_its_numbers(diagnosed):
    figures = diagnosed.count("<figure")
    assert figures == diagnosed.count("<figcaption") == diagnosed.count('class="source"')
    assert diagnosed.count("<code>yarbus conflict tinyworld</code>") == figures + 1
    names = re.findall(r'download="([^"]+)"', diagnosed)
    assert len(set(names)) == figures


def test_a_page_stays_small_and_names_nothing_outside_itself(diagnosed):
    assert len(diagnosed) < 1_500_000
    assert not re.search(r"""\b(?:src|href|action)=["'](?!data:|#)|url\((?!data:)""", diagnosed)
    assert not re.search(r"https?://|//cdn|@import", diagnosed)


def test_what_was_not_measured_is_listed_and_not_drawn(tmp_path):
    page = write_report(write_conflict(tmp_path, drift=None, gap=None)).read_text()
    assert headings(page) == [
        "Behind the advice", "By depth", "Task by task", "Not recorded", "The data", "How this was made",
    ]  # fmt: skip
    for text in ("contexts: needs --run", "weight changes, by depth, with their control: needs", "what sharing costs"):
        assert text in page
    assert page.count("<li>contexts:") == 1


def test_what_the_record_says_is_missing_is_not_said_twice(tmp_path):
    said = ["weight changes and what sharing costs: need --steps", "gradient agreement in training: needs --run"]
    page = write_report(write_conflict(tmp_path, drift=None, gap=None, missing=said)).read_text()
    assert page.count("weight changes") == 1 and page.count("gradient agreement") == 1


def test_a_run_that_is_gone_is_told(tmp_path):
    folder = write_conflict(tmp_path, run="runs/gone", missing=[])
    assert read_conflict(folder).run is None
    assert "the trained run: runs/gone is not there" in write_report(folder).read_text()


def test_an_empty_record_has_a_page(tmp_path):
    write(tmp_path / "conflict.json", {"kind": "conflict"})
    page = write_report(tmp_path).read_text()
    assert "no advice was recorded" in page and "gradients, by depth and task by task: needs" in page
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_one_task_and_one_block_have_a_page(tmp_path):
    parts = {"gradients": gradients(("read",), 1), "drift": drift(("read",), 1), "gap": gap(("read",))}
    page = write_report(write_conflict(tmp_path, **parts)).read_text()
    assert "no pair to compare" in page and "in the only block" in page
    assert not re.search(r"\bnan\b|NaN", page)


def test_hostile_text_is_shown_as_text_wherever_it_stands(tmp_path):
    record = conflict_record()
    tasks = (HOSTILE, *TASKS[1:])
    examples = {"num_rows": 3, "num_samples": 2, "examples": [HOSTILE] * 3}
    write_conflict(
        tmp_path,
        name=HOSTILE, command=HOSTILE, note=HOSTILE, start=HOSTILE, stage=HOSTILE, missing=[HOSTILE],
        grouping={"by": HOSTILE, "tasks": {HOSTILE: examples}},
        gradients=gradients(tasks), drift=drift(tasks), gap=gap(tasks),
        advice={**record["advice"], "headline": HOSTILE, "sentences": [HOSTILE], "sureness": HOSTILE},
    )  # fmt: skip
    page = write_report(tmp_path).read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and 'onerror="' not in page
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_a_comparison_with_a_diagnosis_shows_its_advice(tmp_path, comparison_folder):
    import shutil

    folder = shutil.copytree(comparison_folder, tmp_path / "both")
    write_conflict(folder, run=None)
    page = write_report(folder).read_text()
    assert "Do the tasks conflict?" in headings(page) and ADVICE["headline"] in page
    assert "Scores" in headings(page)
    assert "contexts: needs yarbus conflict RECIPE --run RUN" in page


def test_the_same_records_give_the_same_page(tmp_path):
    folder = write_conflict(tmp_path)
    assert write_report(folder).read_text() == write_report(folder).read_text()


def test_drawing_a_page_imports_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from yarbus.report.html import write_report;"
        "write_report(Path(sys.argv[1]));"
        "sys.exit(any(name.split('.')[0] in ('torch', 'transformers', 'sklearn', 'scipy') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, str(write_conflict(tmp_path))], check=True)
