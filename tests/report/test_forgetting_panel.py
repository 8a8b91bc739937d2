"""The panel's picture and table."""

import re
import shutil
from dataclasses import replace

import pytest

from tests.report.panel import MODELS, write_panel
from tests.report.test_html import Balance
from yarbus.core.records import write_json
from yarbus.report.digest import digest_of
from yarbus.report.forgetting import forgetting_of
from yarbus.report.forgetting_panel import HEIGHT, WIDTH, forgetting_figure, forgetting_table
from yarbus.report.html import write_report
from yarbus.report.intervals import Difference
from yarbus.report.look import Look
from yarbus.report.runs import read_comparison
from yarbus.report.sweeps import read_all

ZERO = Difference(0.0, -0.01, 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("panel"))


@pytest.fixture(scope="module")
def found(folder):
    return forgetting_of(*read_all(folder))


@pytest.fixture
def look():
    return Look([*MODELS, "wise-ft"])


def places(figure, kind):
    return [
        (float(left), float(top))
        for left, top in re.findall(rf'<{kind}[^>]*style="left:([\d.]+)%;top:([\d.]+)%"', figure.body)
    ]


def test_every_variant_has_a_marker_a_whisker_each_way_and_an_arrow(found, look):
    figure = forgetting_figure(found, look)
    assert len(places(figure, "svg")) == len(MODELS)
    assert figure.body.count('class="interval') == len(MODELS)
    assert figure.body.count("arrow head") == len(MODELS) - 1
    assert "where the arrows begin" in figure.body


def test_up_is_better_classification_and_right_better_instructions(found, look):
    marks = dict(zip(MODELS, places(forgetting_figure(found, look), "svg"), strict=True))
    assert marks["finetune"][1] < marks["base"][1], "higher up"
    assert marks["finetune"][0] < marks["base"][0], "further left"
    assert all(0 <= left <= 100 and 0 <= top <= 100 for left, top in marks.values())


def test_an_arrow_ends_before_its_point_and_points_at_it(found, look):
    figure = forgetting_figure(found, look)
    marks = dict(zip(MODELS, places(figure, "svg"), strict=True))
    heads = [
        [tuple(map(float, corner.split())) for corner in d.split("L")]
        for d in re.findall(r'd="M([^"]+)Z" class="arrow head"', figure.body)
    ]
    for name, (tip, left, right) in zip(("finetune", "carpe"), heads, strict=True):
        end = (marks[name][0] * WIDTH / 100, marks[name][1] * HEIGHT / 100)
        back = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
        to_tip, to_end = ((tip[0] - back[0], tip[1] - back[1]), (end[0] - back[0], end[1] - back[1]))
        assert abs(to_tip[0] * to_end[1] - to_tip[1] * to_end[0]) < 6, "on one line"
        assert to_end[0] ** 2 + to_end[1] ** 2 > to_tip[0] ** 2 + to_tip[1] ** 2, "short of it"


def test_a_curve_is_a_line_whose_alphas_stand_beside_it(found, look):
    figure = forgetting_figure(found, look)
    assert re.findall(r'class="alpha[^>]*>([^<]+)<', figure.body) == ["0", "0.5", "1"]
    assert "blends, alpha from 0 to 1" in figure.body


def test_the_reading_tells_gain_from_loss(found, look):
    reading = forgetting_figure(found, look).reading
    assert "carpe gained in classification over base without a loss" in reading
    assert "finetune gained in classification and lost in instructions" in reading
    assert "Along wise-ft classification goes from" in reading
    less = replace(found.variants[1], name="carpe", gained=Difference(-0.2, -0.3, -0.1), kept=ZERO)
    worse = forgetting_figure(replace(found, variants=[found.variants[0], less], curves={}), look).reading
    assert worse == "carpe lost in classification."
    alike = replace(
        found, variants=[found.variants[0], replace(found.variants[0], name="carpe", gained=ZERO, kept=ZERO)]
    )
    assert "No difference to base is clear of 0" in forgetting_figure(replace(alike, curves={}), look).reading


def test_a_curve_alone_has_whiskers_of_its_own(found, look):
    alone = replace(found, variants=[], base="wise-ft at 0")
    figure = forgetting_figure(alone, look)
    assert figure.body.count('class="interval') == 3 and "arrow" not in figure.body


def test_points_in_one_place_need_no_arrow_and_make_no_error(found, look):
    one = found.variants[0]
    figure = forgetting_figure(replace(found, variants=[one, replace(one, name="carpe")], curves={}), look)
    assert "arrow head" not in figure.body


def test_the_table_holds_every_model_and_blend(found, look):
    table = forgetting_table(found, look)
    assert table.body.count("<tr") == 1 + len(MODELS) + 3
    assert "minus base" in table.body
    assert len(table.rows) == (len(MODELS) + 3) * (2 + 5)


def test_the_page_shows_it_after_the_scores(folder, tmp_path):
    page = write_report(folder, tmp_path / "page.html").read_text()
    assert page.index('id="scores"') < page.index('id="gained-and-forgotten"') < page.index('id="differences"')
    balance = Balance()
    balance.feed(page)
    assert balance.open == []


def test_a_page_of_numbers_without_replies_shows_it_too(folder, tmp_path):
    write_json(tmp_path / "digest.json", digest_of(read_comparison(folder)))
    shutil.copy(folder / "comparison.json", tmp_path / "comparison.json")
    page = write_report(tmp_path).read_text()
    assert "Gained and forgotten" in page and "blends, alpha from 0 to 1" in page
