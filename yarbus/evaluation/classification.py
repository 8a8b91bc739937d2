"""Pictures to classify as a benchmark: ``classes:PATH`` (a folder of classes), ``dataset:PATH`` (a data set on disk).

The wording and the first two ways of judging are those of Zhang et al. (NeurIPS 2024); CARPE, which builds on them,
states neither. An open question offers no names; ``#closed=20`` appends twenty, ``#closed=all`` every one, drawn and
shuffled for each picture by its id and ``#seed``, 1234 unless said. (They draw from one generator, picture after
picture; here a picture's list does not depend on which others are asked.) The headline ``accuracy`` is inclusion, which
is generous: "ant" is found in "elephant", and all of a list that is merely repeated. So stricter ones stand beside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from random import Random

from yarbus.core.errors import ConfigError
from yarbus.core.own_names import OwnName
from yarbus.core.plugins import resolve
from yarbus.data.sample import IMAGE_TAG, Sample, Turn
from yarbus.data.sources import SOURCES
from yarbus.data.wording import offered, offering
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.prompts import PROMPTS
from yarbus.evaluation.scoring import JudgedBy, Metric, accuracy, commonest_answer

QUESTION = "What type of object is in this photo?"
MAX_NEW_TOKENS = 64
TASK = "classification"


# ---- judges ----


def inclusion(text: str, label: str) -> bool:
    """Whether the label stands anywhere in the reply, in lower case, inside another word too."""
    return label.lower() in text.lower()


@lru_cache(maxsize=4096)
def _whole(*labels: str) -> re.Pattern[str]:
    """Any of the labels as whole words; of several that begin at one place, the longest."""
    ordered = sorted(labels, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)")


def whole_words(text: str, label: str) -> bool:
    """Whether the label stands in the reply and neither begins nor ends inside a word: no "ant" in "elephant"."""
    return _whole(label.lower()).search(text.lower()) is not None


def exact(text: str, label: str) -> bool:
    """Whether the reply is the label and nothing else, in lower case."""
    return text.strip().lower() == label.lower()


def only(text: str, label: str, names: tuple[str, ...]) -> bool:
    """Whether the reply names this class and no other one; a class inside a longer one's name is not named.

    "tiger shark" names no tiger, and who repeats a list has chosen nothing from it.
    """
    return set(_whole(*names).findall(text.lower())) == {label.lower()}


# ---- questions ----


def _list_size(own: OwnName, names: tuple[str, ...]) -> int | None:
    """How many names a question offers; None for an open one."""
    if own.closed == "all":
        return len(names)
    if own.closed is not None and own.closed > len(names):
        fix = "use #closed=all, or fewer names"
        raise ConfigError(f"benchmark '{own.name}' has {len(names)} classes", why=f"closed={own.closed}", fix=fix)
    return own.closed


@dataclass(frozen=True)
class Choices:
    """The questions of a set of classes, with the names to choose from."""

    samples: list[Sample]
    """One question per picture; its answer is the name of the class."""
    offered: list[tuple[str, ...]]
    """For each question the names that it may be: those that it offers, or every class."""
    names: tuple[str, ...]
    """Of all classes, those without a picture too: a data set may say more than it shows."""


def read_choices(own: OwnName) -> Choices:
    """The questions that a ``classes:`` or ``dataset:`` name stands for."""
    own.check()
    options = dict(own.options)
    if "names" in options:
        options["names"] = str(resolve(options["names"]))
    samples: list[Sample] = SOURCES[own.kind](own.place, None, **options)
    wording = samples[0].wording
    assert wording is not None, "both sources word their questions anew"
    size = _list_size(own, wording.names)
    found = Choices([], [], wording.names)
    for sample in samples:
        answer, question, names = sample.turns[-1], QUESTION, wording.names
        if size is not None:
            names = tuple(offered(answer.text, wording.names, size, Random(f"{own.seed} {sample.id}")))
            question = offering(QUESTION, names)
        turns = (Turn("user", f"{IMAGE_TAG}\n{question}"), answer)
        found.samples.append(replace(sample, turns=turns, task=TASK, wording=None))
        found.offered.append(names)
    return found


def read_questions(own: OwnName) -> list[Sample]:
    """One question per picture; its answer is the name of the class."""
    return read_choices(own).samples


def _chance(own: OwnName, answers: list[str], names: tuple[str, ...]) -> float:
    """Saying the commonest class, or any one of a list."""
    if own.closed is None:
        return commonest_answer(answers)
    return 1 / (len(names) if own.closed == "all" else own.closed)


def class_benchmark(own: OwnName, samples: list[Sample], names: Iterable[str] | None = None) -> Benchmark:
    """The benchmark of these questions. ``names``: of all classes; None takes those of the answers."""
    answers = [sample.turns[-1].text for sample in samples]
    names = tuple(sorted(set(answers) if names is None else names))
    lower = tuple(name.lower() for name in names)
    metrics: dict[str, Metric] = {
        "accuracy": accuracy,
        "whole_words": JudgedBy(whole_words),
        "exact": JudgedBy(exact),
        "only": JudgedBy(partial(only, names=lower)),
    }
    chance = _chance(own, answers, names)
    return Benchmark(
        name=own.name,
        paper="protocol of Zhang et al., arXiv:2405.18415",
        licence="as the pictures'",
        samples=lambda: samples,
        protocols={
            "official": Protocol(max_new_tokens=MAX_NEW_TOKENS, judge=inclusion),
            "zero_shot": Protocol(name="zero_shot", max_new_tokens=0, judge=exact, prompts=PROMPTS[:1]),
            "zero_shot_ensemble": Protocol(name="zero_shot_ensemble", max_new_tokens=0, judge=exact, prompts=PROMPTS),
        },
        metrics=metrics,
        classes=names,
        kind="classification",
        chance=dict.fromkeys(metrics, chance),
    )
