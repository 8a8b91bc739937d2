"""One file that stands alone."""

import re
import subprocess
import sys
from base64 import b64decode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from tests.report.synthetic import write_comparison, write_evaluation, write_run
from tests.report.test_summary import rows
from yarbus.core.errors import CheckpointError
from yarbus.core.records import read_json, write_json
from yarbus.report.html import write_report

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def page(comparison_folder):
    return write_report(comparison_folder).read_text()


class Balance(HTMLParser):
    """Checks that every element is closed by its own tag."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "img", "col", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_uses_semantic_elements(page):
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert {"header", "main", "section", "figure", "figcaption", "table", "article", "h1", "h2"} <= balance.seen


def test_page_names_no_address_outside_itself(page):
    assert not re.search(r"""\b(?:src|href|action)=["'](?!data:|#)|url\((?!data:)""", page)
    assert not re.search(r"https?://|//cdn|@import", page)


def test_page_allows_its_own_script_alone(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
    assert "default-src 'none'" in policy
    digest = re.search(r"sha256-([^']+)'", policy).group(1)
    assert b64decode(digest) == sha256(script.encode()).digest()


def test_every_picture_and_figure_has_words(page):
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", page))
    assert page.count("<figure") == page.count("<figcaption")
    assert 'aria-label="Loss by step in stage instruct' in page


def test_page_holds_command_note_intervals_and_chance(tmp_path):
    folder = write_comparison(tmp_path, num_scenes=5, note="Gate locate is unmet: 3.1 points.")
    page = write_report(folder).read_text()
    for text in ("yarbus quickstart --seeds 1", "Gate locate is unmet", "chance", "minus frozen", "minus full"):
        assert text in page
    assert "packages.transformers" in page
    assert "Infinity" not in page and "NaN" not in page


def test_numbers_can_be_downloaded_from_the_page(page):
    found = re.findall(r'href="data:text/csv;base64,([^"]+)" download="[^"]+-(\w+)\.csv"', page)
    links = {name: b64decode(data).decode() for data, name in found}
    scores, differences, curves = (links[kind] for kind in ("scores", "frozen", "align"))
    assert scores.splitlines()[0] == "task,variant,accuracy,low,high,chance,questions,seeds"
    assert len(scores.splitlines()) == 1 + 6 * 4
    assert len(differences.splitlines()) == 1 + 6 * 3
    assert curves.splitlines()[1].startswith("align,shared by all,10,")


def test_hostile_text_is_shown_as_text_wherever_it_stands(tmp_path):
    run = tmp_path / "runs" / "full-seed0"
    write_run(run, tmp_path / "pictures", skill=0.0, seed=0, num_scenes=2)
    lines = [
        {**row, "question": HOSTILE, "answer": HOSTILE, "reply": HOSTILE, "images": [HOSTILE], "task": HOSTILE}
        for row in rows("t", "10e")
    ]
    lines += rows("other", "1")
    write_evaluation(run, "hostile", [{**line, "error": HOSTILE if line["error"] else None} for line in lines], 0.1)
    stage = run / "stages" / HOSTILE.replace("/", "")
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    page = write_report(run).read_text()
    assert "<script>alert" not in page and "<img src=x" not in page and 'onerror="' not in page
    assert "&lt;script&gt;alert(1)" in page
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_a_run_alone_and_runs_side_by_side_have_a_page(comparison_folder, tmp_path):
    alone = write_report(comparison_folder / "full-seed0")
    assert alone == comparison_folder / "full-seed0" / "report" / "index.html"
    assert "guessing reaches" in alone.read_text()
    both = write_report([comparison_folder / "full-seed0", comparison_folder / "frozen-seed1"], tmp_path / "both.html")
    assert "minus frozen" in both.read_text()


def test_a_run_that_has_only_been_trained_has_a_page(tmp_path):
    stage = tmp_path / "stages" / "instruct"
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    page = write_report(tmp_path).read_text()
    assert "No scores yet" in page and "Training loss by step" in page


def test_the_same_records_give_the_same_page(comparison_folder, page):
    assert write_report(comparison_folder).read_text() == page


def test_drawing_a_page_imports_no_torch(comparison_folder):
    code = (
        "import sys; from pathlib import Path; from yarbus.report.html import write_report;"
        "import yarbus.report.tables; write_report(Path(sys.argv[1]));"
        "sys.exit(any(name.split('.')[0] in ('torch', 'transformers', 'jaxtyping') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, str(comparison_folder)], check=True)


def test_a_page_that_cannot_be_written_is_named(comparison_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write.*file"):
        write_report(comparison_folder, tmp_path / "file" / "page.html")


def test_runs_that_differ_in_their_own_names_alone_ran_in_the_same_environment(tmp_path):
    folder = tmp_path / "comparison"
    write_comparison(folder)
    records = sorted(folder.glob("*-seed*/environment.json"))
    for number, path in enumerate(records):
        write_json(path, {**read_json(path), "run": str(number), "start": str(number)})
    assert f"the same in {len(records)} of {len(records)} runs" in write_report(folder).read_text()
