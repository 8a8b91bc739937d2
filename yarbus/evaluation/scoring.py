"""Replies judged and counted.

The judge here is *exact match under a stated rule* (:func:`normalise`). Its interval is Wilson's;
the interval of any other metric comes from drawing groups (scenes, pairs) with replacement.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from yarbus.data.sample import Sample
from yarbus.report.intervals import Interval, wilson

BOOTSTRAP_DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said to one question, and whether that is right."""

    sample: Sample
    text: str
    """Decoded without special tokens and stripped; "" where the sample failed."""
    is_correct: bool
    error: str | None = None
    """Why there is no reply. A failed sample counts as wrong and is reported."""


Judge = Callable[[str, str], bool]
"""(reply, right answer) -> is it right; an empty reply is wrong and never an exception."""
Metric = Callable[[list[Reply]], float]
"""All replies of a benchmark -> one number."""


def normalise(text: str) -> str:
    """The form in which two answers are compared: stripped, lower case, one blank for any run of white
    space, without one closing full stop."""
    text = re.sub(r"\s+", " ", text.strip()).casefold()
    return text.removesuffix(".").rstrip()


def exact_match(text: str, answer: str) -> bool:
    """True when both are the same after :func:`normalise`; an empty reply is wrong."""
    return normalise(text) != "" and normalise(text) == normalise(answer)


def accuracy(replies: list[Reply]) -> float:
    """Fraction of questions answered right, in [0, 1]."""
    return sum(reply.is_correct for reply in replies) / len(replies)


@dataclass(frozen=True)
class TaskAccuracy:
    """The metric "fraction right among the questions of one task"; NaN if none of them is there."""

    task: str

    def chosen(self, replies: list[Reply]) -> list[Reply]:
        """The replies that count."""
        return [reply for reply in replies if reply.sample.task == self.task]

    def __call__(self, replies: list[Reply]) -> float:
        chosen = self.chosen(replies)
        return accuracy(chosen) if chosen else float("nan")


@dataclass(frozen=True)
class JudgedBy:
    """The metric "fraction right under another judge than the protocol's"; a failed sample is wrong."""

    judge: Judge

    def chosen(self, replies: list[Reply]) -> list[Reply]:
        """The replies with this judge's verdict."""
        return [
            replace(reply, is_correct=reply.error is None and self.judge(reply.text, reply.sample.turns[-1].text))
            for reply in replies
        ]

    def __call__(self, replies: list[Reply]) -> float:
        return accuracy(self.chosen(replies))


def commonest_answer(answers: list[str]) -> float:
    """What always giving the most frequent answer would reach: the chance level of a file that states none."""
    return max(Counter(map(normalise, answers)).values()) / len(answers)


def _counted(metric: Metric, replies: list[Reply]) -> list[Reply] | None:
    """The replies whose plain fraction right the metric is, or None if it is something else."""
    if metric is accuracy:
        return replies
    return metric.chosen(replies) if isinstance(metric, TaskAccuracy | JudgedBy) else None


def _bootstrap(metric: Metric, replies: list[Reply]) -> Interval:
    """Percentile interval of any metric, its groups drawn with replacement."""
    groups: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        groups[reply.sample.group or reply.sample.id].append(reply)
    names, generator, values = list(groups), np.random.default_rng(0), []
    for _ in range(BOOTSTRAP_DRAWS):
        drawn = []
        for number, index in enumerate(generator.integers(len(names), size=len(names))):
            # A group drawn twice must not melt into one: metrics may count by group.
            drawn += [replace(reply, sample=replace(reply.sample, group=f"{number}")) for reply in groups[names[index]]]
        values.append(metric(drawn))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def score(metric: Metric, replies: list[Reply]) -> dict[str, float | int | str]:
    """One metric as a record: value, number of questions, 95 % interval and the way it was made."""
    counted = _counted(metric, replies)
    if counted is not None:
        right = sum(reply.is_correct for reply in counted)
        interval, way, n = wilson(right, len(counted)), "wilson", len(counted)
    else:
        interval, way, n = _bootstrap(metric, replies), "bootstrap by group", len(replies)
    return {"value": float(metric(replies)), "n": n, "low": interval.low, "high": interval.high, "interval": way}
