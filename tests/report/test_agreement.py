"""Agreement of gradients is claimed only where both definitions agree."""

import re

import pytest

from tests.report.synthetic_diagnosis import agreement
from yarbus.report.agreement import agreement_figure, agreement_figures, quarters_figure
from yarbus.report.look import Look

LOOK = Look(["full", "dense"])


def of(leave_one_out: float, dominant: float, std: float = 0.05) -> dict:
    parts = {
        name: {"mean": mean, "std": std} for name, mean in (("leave_one_out", leave_one_out), ("dominant", dominant))
    }
    return {"num_steps": 90, "sets": {"layernorm": {"kind": "exact", "elements": 2304, **parts}}}


@pytest.mark.parametrize(
    ("full", "dense", "reading"),
    [
        ((0.1, 0.1), (0.2, 0.2), "Steps agree most in dense (0.20) and least in full (0.10), by both definitions."),
        ((0.1, 0.3), (0.2, 0.2), "The two definitions put the variants in different orders, so no order is claimed."),
        ((0.100, 0.1), (0.105, 0.2), "No difference seen: all variants lie between 0.10 and 0.10."),
    ],
)  # fmt: skip
def test_the_reading_names_an_order_only_where_definitions_and_distance_allow(full, dense, reading):
    assert agreement_figure({"full": [of(*full)], "dense": [of(*dense)]}, "layernorm", LOOK).reading == reading


def test_histograms_are_cut_to_what_they_hold():
    figure = agreement_figure({"full": [agreement(0.2)]}, "layernorm", LOOK)
    assert figure.body.count('class="histogram') == 2
    for left, width in re.findall(r'class="histogram[^>]*style="left:([-\d.]+)%;width:([\d.]+)%"', figure.body):
        assert float(left) >= 0 and float(left) + float(width) <= 100.01


def test_unlike_numbers_of_parameters_are_told():
    small, large = of(0.1, 0.1), of(0.2, 0.2)
    large["sets"]["layernorm"] |= {"elements": 800_000, "kind": "sketch"}
    how = agreement_figure({"full": [small], "dense": [large]}, "layernorm", LOOK).how
    assert "Numbers of parameters differ" in how and "dense 800,000 as a sketch" in how
    assert "Parameters: 2,304." in agreement_figure({"full": [small]}, "layernorm", LOOK).how


def test_quarters_tell_whether_agreement_falls():
    figure = quarters_figure({"full": [agreement(0.1)], "dense": [agreement(0.2)]}, LOOK)
    assert "In 2 of 2 variants the steps agree less in the last quarter" in figure.reading
    assert len(figure.rows) == 2 * 2 * 4
    alone = quarters_figure({"full": [agreement(0.1)]}, LOOK)
    assert alone.reading == "The steps agree less in the last quarter of training than in the first."


def test_a_lone_run_has_a_common_direction_only_beyond_the_noise_of_its_steps():
    seen, not_seen = (agreement_figure({"full": [of(mean, 0.1)]}, "layernorm", LOOK) for mean in (0.1, 0.005))
    assert seen.reading == "A step of full has a cosine of 0.10 to the others on average."
    assert not_seen.reading.startswith("No common direction seen")


def test_seeds_are_averaged():
    figure = agreement_figure({"full": [of(0.1, 0.1), of(0.3, 0.3)]}, "layernorm", LOOK)
    assert figure.rows[0][3] == pytest.approx(0.2)


def test_what_was_not_recorded_is_not_drawn():
    assert agreement_figures({}, LOOK) == [None, None, None]
    assert agreement_figure({"full": [of(0.1, 0.1)]}, "all", LOOK) is None
    assert quarters_figure({"full": [of(0.1, 0.1)]}, LOOK) is None
