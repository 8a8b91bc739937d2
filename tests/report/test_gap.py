"""Cost of sharing and gain of tuning."""

from tests.report.synthetic_diagnosis import estimate, gap
from yarbus.report.gap import gap_figure


def of(**gaps: float) -> dict:
    return {"unit": "loss", "tasks": {task: {"alone": 0.3, "mix": 0.3 + g, "gap": estimate(g, 0.02)}
                                      for task, g in gaps.items()}}  # fmt: skip


def test_reading_names_who_loses_who_gains_and_who_is_not_separated():
    assert gap_figure(of(read=0.1, size=-0.1, lean=0.0)).reading == (
        "Read is worse off in the mix than alone; size is better off in the mix; 1 of 3 not separated."
    )


def test_small_gaps_are_no_cost_and_stand_in_grey():
    figure = gap_figure(of(read=0.01, size=-0.01))
    assert "No cost of sharing seen" in figure.reading
    assert figure.body.count('class="what open"') == 2


def test_gain_stands_below_the_cost_where_it_was_measured():
    figure = gap_figure(gap())
    assert figure.body.index("What sharing costs") < figure.body.index("What tuning brings")
    assert "frozen 0.325, mix 0.275" in figure.body
    assert "Short runs of 150 steps on the mixture, 2 seeds" in figure.how
    assert [row[1] for row in figure.rows] == ["gap"] * 7 + ["gain"] * 7
    assert "What tuning brings" not in gap_figure(of(read=0.1)).body


def test_nothing_measured_draws_nothing():
    assert gap_figure(None) is None
    assert gap_figure({"unit": "loss", "tasks": {"read": {"alone": 1.0, "gap": None}}}) is None
