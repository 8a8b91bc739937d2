"""Contexts against routing."""

import pytest

from tests.report.synthetic_diagnosis import contexts
from yarbus.report.look import Look
from yarbus.report.similarity import cluster_similarity_figure, routing_similarity_figure

LOOK = Look(["dense"])


def of(raw: float | None, centred: float | None) -> dict:
    return {"routing_similarity": {"pearson": raw, "pearson_centred": centred, "num_pairs": 10, "points": [[0.1, 0.2]]}}


@pytest.mark.parametrize(
    ("raw", "centred", "reading"),
    [
        (0.9, 0.6, "Alike contexts are routed alike: r = 0.90, centred 0.60."),
        (0.9, 0.05, "No relation seen between contexts and routing: r = 0.90, centred 0.05."),
        (0.1, -0.4, "Alike contexts are routed apart: r = 0.10, centred \N{MINUS SIGN}0.40."),
        (None, None, "No correlation was recorded."),
    ],
)
def test_the_centred_correlation_decides(raw, centred, reading):
    assert routing_similarity_figure({"dense": [of(raw, centred)]}, LOOK).reading == reading


def test_several_variants_are_told_apart_by_what_is_seen():
    figure = routing_similarity_figure({"dense": [of(0.9, 0.6)], "full": [of(0.9, 0.01)]}, Look(["dense", "full"]))
    assert figure.reading == (
        "Alike contexts are routed alike (dense); no relation seen between contexts and routing (full)."
    )
    assert "dense: r = 0.90, centred 0.60" in figure.body


def test_points_without_a_number_are_left_out():
    record = of(0.9, 0.6)
    record["routing_similarity"]["points"] += [[None, 0.1], [0.2], [float("nan"), 0.3]]
    assert routing_similarity_figure({"dense": [record]}, LOOK).rows == [["dense", 0.1, 0.2]]
    record["routing_similarity"]["points"] = []
    assert routing_similarity_figure({"dense": [record]}, LOOK) is None
    assert routing_similarity_figure({}, LOOK) is None


def test_clusters_are_alike_only_if_they_are_after_centring():
    record = contexts([], 10)
    assert "also after centring" in cluster_similarity_figure({"dense": [record]}).reading
    record["similarity"]["text"]["intra_centred"] = -0.06
    assert "no more alike within clusters" in cluster_similarity_figure({"dense": [record]}).reading


def test_missing_cosines_are_dashes():
    record = contexts([], 10)
    record["similarity"]["visual"] = dict.fromkeys(record["similarity"]["visual"])
    record["similarity"]["text"]["relative"] = None
    figure = cluster_similarity_figure({"dense": [record, record]})
    assert [row[1] for row in figure.rows] == ["text"] and "\N{EN DASH}" in figure.body
    assert "First seeds." in figure.how
    assert cluster_similarity_figure({"dense": [{}]}) is None


def test_a_router_before_training_is_the_control():
    record = {**of(0.2, 0.16), "untrained": {"routing_similarity": {"pearson_centred": 0.43}}}
    assert "Before training, centred: dense 0.43." in routing_similarity_figure({"dense": [record]}, LOOK).how
    assert "Before training" not in routing_similarity_figure({"dense": [of(0.2, 0.16)]}, LOOK).how
