"""Judging and counting."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.data.sample import Sample
from yarbus.evaluation.scoring import (
    Reply,
    TaskAccuracy,
    accuracy,
    commonest_answer,
    exact_match,
    normalise,
    score,
)


def replies(verdicts: str, task: str | None = None, groups: str | None = None) -> list[Reply]:
    return [
        Reply(
            sample=Sample(str(i), (), (), task=task, group=groups[i] if groups else None), text="x", is_correct=v == "1"
        )
        for i, v in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("text", "answer", "is_right"),
    [
        ("three", "three", True),
        ("  Three.\n", "three", True),
        ("top  left", "Top left", True),
        ("top\nleft", "top left", True),
        ("three", "3", False),
        ("three three", "three", False),
        ("", "", False),
        (" . ", ".", False),
        ("STRASSE", "straße", True),
        ("3.", "3", True),
        ("3..", "3", False),
        ("🙂", "🙂", True),
    ],
)
def test_exact_match_follows_the_stated_rule(text, answer, is_right):
    assert exact_match(text, answer) is is_right


@given(st.text(), st.text())
def test_exact_match_never_raises_and_is_symmetric(text, answer):
    assert exact_match(text, answer) == exact_match(answer, text)
    assert normalise(normalise(text)).casefold() == normalise(normalise(text))


def test_a_reply_of_a_megabyte_is_judged_at_once():
    assert exact_match("yes " * 250_000, "yes") is False


def test_score_of_accuracy_has_the_wilson_interval():
    found = score(accuracy, replies("1" * 81 + "0" * 182))
    assert (found["value"], found["n"], found["interval"]) == (pytest.approx(81 / 263), 263, "wilson")
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.2553, 0.3662)


def test_score_of_a_task_counts_the_questions_of_that_task_alone():
    found = score(TaskAccuracy("where"), replies("110", "where") + replies("0000", "what"))
    assert (found["value"], found["n"]) == (pytest.approx(2 / 3), 3)
    assert math.isnan(TaskAccuracy("other")(replies("1", "where")))


def pair_accuracy(some: list[Reply]) -> float:
    pairs: dict[str, list[bool]] = {}
    for reply in some:
        pairs.setdefault(reply.sample.group, []).append(reply.is_correct)
    return sum(map(all, pairs.values())) / len(pairs)


def test_any_other_metric_has_an_interval_drawn_by_group_where_a_group_drawn_twice_counts_twice():
    some = replies("1111" + "1000" * 12, groups="".join(c * 2 for c in "abcdefghijklmnopqrstuvwxyz"))
    found = score(pair_accuracy, some)
    assert found["interval"] == "bootstrap by group"
    assert found["value"] == pytest.approx(2 / 26)
    assert found["low"] <= found["value"] <= found["high"] < 0.3
    everything = score(pair_accuracy, replies("1111", groups="aabb"))
    assert (everything["low"], everything["high"]) == (1.0, 1.0)


def test_commonest_answer_is_what_one_fixed_answer_would_reach():
    assert commonest_answer(["Yes", "yes.", "no", " yes"]) == 0.75
