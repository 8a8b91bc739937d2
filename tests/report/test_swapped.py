"""What a model loses with the wrong question."""

from tests.report.synthetic_diagnosis import estimate, swapped
from yarbus.report.look import Look
from yarbus.report.swapped import loss_figure, swapped_figures, tasks_figure

LOOK = Look(["dense", "merged"])


def of(same: float, other: float, half: float = 0.02) -> dict:
    losses = {"loss_same_task": estimate(same, half), "loss_other_task": estimate(other, half)}
    task = {"n": 50, "own": 0.8, "same_task": 0.8 - same, "other_task": 0.8 - other, **losses}
    return {"tasks": {"read": task}, "mean": {"own": 0.8, **losses}, "rule": "By a hash."}


def test_a_loss_with_another_tasks_question_is_use_of_the_question():
    figure = loss_figure({"dense": [of(0.0, 0.3)]}, LOOK)
    assert figure.reading == (
        "dense uses what the tower hears; a question of another task costs 30.0 (28.0 to 32.0) points, "
        "another of the same task 0.0 (\N{MINUS SIGN}2.0 to 2.0)."
    )
    assert "By a hash." in figure.how


def test_no_loss_is_said_to_be_none():
    assert "dense shows no use of the question" in loss_figure({"dense": [of(0.0, 0.01)]}, LOOK).reading


def test_a_loss_within_the_task_alone_is_told_apart():
    assert "uses the question but not its task" in loss_figure({"dense": [of(0.3, 0.01)]}, LOOK).reading


def test_variants_are_told_apart_by_what_is_seen():
    reading = loss_figure({"dense": [of(0.0, 0.3)], "merged": [of(0.0, 0.2)], "full": [of(0.0, 0.0)]},
                          Look(["dense", "merged", "full"])).reading  # fmt: skip
    assert reading == "dense and merged use what the tower hears; full shows no use of the question."


def test_seeds_are_averaged_and_the_figure_says_what_its_whiskers_leave_out():
    figure = loss_figure({"dense": [of(0.0, 0.2), of(0.0, 0.4)]}, LOOK)
    assert "costs 30.0" in figure.reading
    assert "Means over 2 seeds; whiskers cover the choice of questions, not the luck of a seed." in figure.how


def test_accuracy_by_task_has_three_dots_and_both_losses():
    figure = tasks_figure("dense", [of(0.1, 0.4)])
    assert figure.body.count('style="left:') >= 3
    for place in ("left:80.00%", "left:70.00%", "left:40.00%"):
        assert place in figure.body
    assert "<b>+40.0</b> <small>+38.0 to +42.0</small>" in figure.body
    assert "50 questions per task" in figure.how
    assert figure.reading == "A question of another task clearly costs 1 of 1 tasks something."


def test_what_has_no_partner_is_left_out():
    record = of(0.0, 0.0)
    record["tasks"]["read"] |= {"same_task": None, "loss_same_task": {"mean": None, "low": None, "high": None}}
    record["mean"] = {}
    assert loss_figure({"dense": [record]}, LOOK) is None
    record["mean"] = {"loss_same_task": estimate(0.1, 0.02)}
    assert loss_figure({"dense": [record]}, LOOK).reading == (
        "dense: no question of another task was put to the tower; another of the same task costs 10.0 (8.0 to 12.0)."
    )
    figure = tasks_figure("dense", [record])
    assert [row[2] for row in figure.rows] == ["its own question", "a question of another task"]
    assert "No task clearly loses anything" in figure.reading


def test_every_variant_has_a_figure_of_its_tasks_and_nothing_draws_nothing():
    names = [figure.name for figure in swapped_figures({"dense": [swapped()], "merged": [swapped(0.1)]}, LOOK)]
    assert names == ["swapped", "swapped-dense", "swapped-merged"]
    assert swapped_figures({}, LOOK) == [None]
    assert tasks_figure("dense", [{"tasks": {}}]) is None
