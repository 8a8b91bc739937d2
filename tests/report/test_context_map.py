"""Every dot leads to its sample, without letting a question write markup."""

import json
import re

from tests.report.synthetic_diagnosis import contexts, make_pictures
from yarbus.report.context_map import map_figure
from yarbus.report.thumbnails import Album

HOSTILE = "</script><script>alert(1)</script>"


def values(figure) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure.body, re.DOTALL).group(1))


def test_both_maps_hold_the_same_samples_with_their_pictures(tmp_path):
    album = Album(tmp_path)
    figure = map_figure("dense", [contexts(make_pictures(tmp_path / "p"), 30)], album)
    assert figure.body.count('class="map"') == 2 and figure.body.count("<use") == 60
    samples = values(figure)
    assert len(samples) == 30 and len(samples[0]["at"]) == 2
    for which, drawing in enumerate(re.findall(r'<svg[^>]*class="map".*?</svg>', figure.body)):
        places = re.findall(r'<use href="#m\d" x="([\d.]+)" y="([\d.]+)"', drawing)
        assert [tuple(map(float, place)) for place in places] == [tuple(sample["at"][which]) for sample in samples]
    assert samples[0]["picture"] in album.style()
    assert "adjusted mutual information 0.70" in figure.how
    assert "All 30 samples drawn" in figure.how


def test_which_samples_are_drawn_depends_on_their_ids_alone(tmp_path):
    record = contexts([], 70)
    turned = {**record, "samples": record["samples"][::-1]}
    one, other = (map_figure("dense", [some], Album(tmp_path), most=21) for some in (record, turned))
    assert [row[0] for row in one.rows] == [row[0] for row in other.rows]
    assert len({row[1] for row in one.rows}) > 4
    assert "21 of 70 samples drawn, 21 without a picture" in one.how


def test_a_question_cannot_leave_its_place(tmp_path):
    record = contexts([], 10)
    for sample in record["samples"]:
        sample |= {"question": HOSTILE, "task": HOSTILE}
    figure = map_figure(HOSTILE, [record], Album(tmp_path))
    assert "<script>alert" not in figure.body and "</script><script" not in figure.body
    assert values(figure)[0]["question"] == HOSTILE


def test_clusters_show_their_tasks_and_nearest_samples(tmp_path):
    record = contexts(make_pictures(tmp_path / "p"), 70)
    body = map_figure("dense", [record], Album(tmp_path)).body
    assert "The 7 clusters of the context" in body
    first = record["context"]["clusters"][0]
    nearest = next(s for s in record["samples"] if s["id"] == first["nearest"][0])
    assert body.count(nearest["question"]) >= 1
    assert body.count('class="nearest"') == 7


def test_samples_without_a_place_and_missing_parts_are_left_out(tmp_path):
    record = contexts([], 10)
    for sample in record["samples"][:4]:
        sample["x"] = None
    record |= {"explained": None, "context": {"clusters": None}, "text": {}}
    figure = map_figure("dense", [record], Album(tmp_path))
    assert len(figure.rows) == 6
    assert "percent" not in figure.body and "<details" not in figure.body
    assert map_figure("dense", [], Album(tmp_path)) is None
    assert map_figure("dense", [{"samples": []}], Album(tmp_path)) is None


def test_one_task_in_one_place_is_drawn(tmp_path):
    record = contexts([], 3)
    for sample in record["samples"]:
        sample |= {"x": 0.0, "y": 0.0, "text_x": 0.0, "text_y": 0.0, "task": "read", "cluster": None}
    figure = map_figure("dense", [record], Album(tmp_path))
    assert "NaN" not in figure.body and "nan" not in figure.body
