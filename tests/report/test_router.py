"""Routing while training."""

import pytest

from tests.report.synthetic_diagnosis import routing_lines
from yarbus.report.look import Look
from yarbus.report.router import router_figure

LOOK = Look(["dense", "uniform"])


def test_a_router_that_never_leaves_the_even_mixture_is_said_not_to_route():
    figure = router_figure({"dense": [routing_lines(fall=0.0)]}, LOOK, "instruct")
    assert "No routing seen: at the last step every entropy is still above 98 % of its maximum" in figure.reading


def test_entropy_at_the_end_is_named_by_variant():
    figure = router_figure({"dense": [routing_lines(fall=0.3)], "merged": [routing_lines(fall=0.0)]},
                           Look(["dense", "merged"]), "instruct")  # fmt: skip
    assert "80 % (dense), 100 % (merged) of its maximum; merged still mixes evenly." in figure.reading
    assert "Mean over blocks." in figure.how


def test_a_router_that_chooses_one_expert_is_told():
    line = {"step": 9, "blocks": [{"block": 3, "entropy": 0.01, "max_entropy": 1.39, "expert_distance": 0.1}]}
    assert "Each picture goes to a single expert in block 3." in router_figure({"a": [[line]]}, LOOK, "i").reading


def test_one_variant_is_drawn_by_block():
    figure = router_figure({"dense": [routing_lines()]}, LOOK, "instruct")
    assert {row[2] for row in figure.rows} == {"block 3", "block 4", "block 5"}
    assert "stroke-dasharray" in figure.body


def test_uniform_routing_shows_its_experts_alone_and_says_so():
    lines = routing_lines(uniform=True)
    figure = router_figure({"dense": [routing_lines()], "uniform": [lines]}, LOOK, "instruct")
    assert "uniform: no router that chooses, so no entropy." in figure.how
    assert {row[1] for row in figure.rows if row[2] == "uniform"} == {"Distance between experts"}
    alone = router_figure({"uniform": [lines]}, LOOK, "instruct")
    assert alone.reading == "No entropy was recorded: nothing here has a router that chooses."


def test_seeds_and_blocks_are_averaged():
    def line(distance: float) -> list[dict]:
        return [{"step": 0, "blocks": [{"block": 1, "entropy": None, "expert_distance": distance}]}]

    figure = router_figure({"dense": [line(0.1), line(0.3)], "uniform": [line(0.5)]}, LOOK, "instruct")
    assert [row[-1] for row in figure.rows] == [pytest.approx(0.2), 0.5]
    assert "mean over 2 seeds" in figure.how.lower()


def test_nothing_recorded_draws_nothing():
    assert router_figure({}, LOOK, "instruct") is None
    assert router_figure({"dense": [[{"step": 0, "blocks": []}]]}, LOOK, "instruct") is None
