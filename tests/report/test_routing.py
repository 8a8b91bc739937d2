"""Routing by task, read against an even mixture and against chance."""

import re

from tests.report.synthetic_diagnosis import routing
from yarbus.report.routing import routing_figure


def test_reading_compares_with_chance_and_with_the_greatest_entropy():
    reading = routing_figure("dense", [routing()]).reading
    assert reading.startswith("Routing depends on the task: tasks explain at most 31.4 % of the weights' variance")
    assert "chance 1.4 %" in reading
    assert re.search(r"Entropy is \d+ to \d+ % of its maximum\.$", reading)


def test_an_even_router_is_said_to_route_nothing():
    figure = routing_figure("dense", [routing(sharp=0.0)])
    assert figure.reading.startswith("No dependence on the task seen")
    assert "Entropy is 100 to 100 % of its maximum." in figure.reading
    assert set(re.findall(r"--share:(\d+)%", figure.body)) == {"0"}


def test_a_router_that_sends_everything_to_one_expert_is_told():
    record = routing(blocks=(3, 4))
    for found in record["by_block"][1]["by_task"].values():
        found["weights"] = [0.0, 1.0, 0.0, 0.0]
    assert "In block 4 every task goes to one and the same expert." in routing_figure("dense", [record]).reading


def test_cells_are_percent_and_coloured_by_their_distance_from_an_even_share():
    record = routing(blocks=(3,))
    record["by_block"][0]["by_task"] = {"read": {"weights": [0.5, 0.25, 0.25, 0.0], "entropy": {"mean": 1.0}}}
    record["tasks"] = {"read": 10}
    figure = routing_figure("dense", [record])
    cells = re.findall(r'class="heat (\w+)" style="--share:(\d+)%">(\d+)<', figure.body)
    assert cells == [("above", "100", "50"), ("above", "0", "25"), ("above", "0", "25"), ("below", "100", "0")]
    assert "width:72.1%" in figure.body  # entropy 1.0 of ln 4
    assert "With one task, routing cannot depend on it" in figure.reading
    assert figure.rows[0] == ["dense", 3, "read", 1, 0.5]


def test_the_seed_that_is_drawn_is_named():
    assert "Drawn from the first of 2 seeds" in routing_figure("dense", [routing(), routing()]).how


def test_uniform_routing_and_no_record_draw_nothing():
    record = routing()
    for block in record["by_block"]:
        block |= {"by_task": {}, "entropy": None, "between_tasks": None}
    assert routing_figure("uniform", [record]) is None
    assert routing_figure("dense", []) is None
    assert routing_figure("one", [{"num_experts": 1, "by_block": []}]) is None


def test_a_router_before_training_is_the_control():
    record = routing()
    record["by_block"][0]["untrained"] = {"entropy": 1.2, "between_tasks": 0.3164}
    body = routing_figure("dense", [record]).body
    assert body.count("(untrained: 31.6 %)") == 1
    assert "untrained" not in routing_figure("dense", [routing()]).body
