"""Whether clusters follow the task is read off intervals."""

import pytest

from tests.report.synthetic_diagnosis import contexts, estimate
from yarbus.report.context_map import reading_of
from yarbus.report.contexts import contexts_figures, numbers_figure
from yarbus.report.estimates import Estimate
from yarbus.report.look import Look
from yarbus.report.thumbnails import Album

LOOK = Look(["dense", "merged"])


@pytest.mark.parametrize(
    ("context", "text", "reading"),
    [
        (Estimate(0.7, 0.6, 0.8), Estimate(0.5, 0.4, 0.55), "knows the task better"),
        (Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.55), "No difference seen"),
        (Estimate(0.2, 0.1, 0.3), Estimate(0.5, 0.4, 0.55), "less than the bare text"),
        (Estimate(0.02, -0.1, 0.1), Estimate(0.5, 0.4, 0.55), "do not follow the task beyond chance"),
        (Estimate(0.7), Estimate(0.5, 0.4, 0.55), "Without intervals nothing is separated"),
        (Estimate(0.7, 0.6, 0.8), None, "nothing sure is known of the bare text"),
        (None, None, "was not recorded"),
    ],
)
def test_reading_claims_only_what_the_intervals_hold_apart(context, text, reading):
    assert reading in reading_of(context, text, "task")


def test_numbers_stand_for_context_and_text_of_every_variant_averaged_over_seeds():
    first, second = contexts([], 40), contexts([], 40)
    second["context"]["mutual_information"] = estimate(0.5, 0.03)
    first["context"]["mutual_information"] = estimate(0.7, 0.03)
    figure = numbers_figure({"dense": [first, second], "merged": [first]}, LOOK)
    assert [row[:2] for row in figure.rows] == [
        ["dense", "context"], ["merged", "context"], ["dense", "text"], ["merged", "text"],
    ]  # fmt: skip
    assert figure.rows[0][2] == pytest.approx(0.6)
    assert "Means over 2 seeds." in figure.how
    assert figure.title == "Do clusters follow the task?"
    assert "silhouette 0.31" in figure.body
    assert figure.reading == "The context knows the task better than the bare text does (dense and merged)."


def test_a_lone_run_needs_no_table_and_several_share_the_dots(tmp_path):
    album = Album(tmp_path)
    (alone,) = contexts_figures({"dense": [contexts([], 400)]}, LOOK, album)
    assert len(alone.rows) == 300
    many = {f"v{number}": [contexts([], 400)] for number in range(5)}
    numbers, *maps = contexts_figures(many, Look(list(many)), album)
    assert numbers.name == "contexts" and [len(figure.rows) for figure in maps] == [120] * 5


def test_null_figures_are_left_out(tmp_path):
    record = contexts([], 20)
    for kind in ("context", "text"):
        record[kind] |= {"silhouette": None, "mutual_information": {"mean": None, "low": None, "high": None}}
    assert numbers_figure({"dense": [record]}, LOOK) is None
    (figure,) = contexts_figures({"dense": [record]}, LOOK, Album(tmp_path))
    assert "was not recorded" in figure.reading


def test_contexts_before_training_are_the_control(tmp_path):
    record = {**contexts([]), "untrained": {"context": {"mutual_information": estimate(0.42, 0.03)}}}
    album = Album(tmp_path)
    (figure,) = contexts_figures({"dense": [record]}, LOOK, album)
    assert "Before training the context vector had 0.42 (0.39 to 0.45)." in figure.how
    own = record["context"]["mutual_information"]
    record["untrained"]["context"]["mutual_information"] = estimate(own["mean"], 0.03)
    reading = numbers_figure({"dense": [record]}, LOOK).reading
    assert f"Routers of random weights reach as much (dense {own['mean']:.2f})." in reading
    record["untrained"]["context"]["mutual_information"] = estimate(own["low"] - 0.1, 0.03)
    assert "Training added to it (dense" in numbers_figure({"dense": [record]}, LOOK).reading
    assert "andom weights" not in numbers_figure({"dense": [contexts([])]}, LOOK).reading
