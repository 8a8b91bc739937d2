"""One benchmark per task: the test split's questions, in phrasings that training never used.

The same questions of validation scans are ``file:tinyworld:validation/<task>.json``.
"""

from functools import partial
from pathlib import Path

from yarbus.core.plugins import resolve
from yarbus.data.sample import Sample
from yarbus.data.sources import SOURCES
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.scoring import Metric, Reply, TaskAccuracy, accuracy
from yarbus.tinyworld.classification import CLASSIFICATION
from yarbus.tinyworld.shifts import KINDS
from yarbus.tinyworld.tasks import TASKS

CHANCE = {name: task.chance for name, task in (TASKS | CLASSIFICATION).items()}
CHANCE["classify-ood"] = CHANCE["classify"]


def names_the_label(reply: str, answer: str) -> bool:
    """Whether the answer is one of the reply's words: ``cyan 7`` names 7, the cell ``a7`` would not."""
    return answer in reply.split()


def label_named(replies: list[Reply]) -> float:
    """Fraction of replies that name the right label, whatever they say beside it."""
    return sum(names_the_label(reply.text, reply.sample.turns[-1].text) for reply in replies) / len(replies)


METRICS: dict[str, dict[str, Metric]] = {
    "classify": {"label_named": label_named},
    "classify-closed": {"label_named": label_named},
    "classify-ood": {"label_named": label_named, **{kind: TaskAccuracy(kind) for kind in KINDS}},
}
"""Beside the exact match of all. ``label_named`` is for a base whose replies have another form; it has no chance level,
as a reply may name many labels."""
CAPTION_TOKENS = 9
MAX_NEW_TOKENS = {"caption": CAPTION_TOKENS, **dict.fromkeys((*CLASSIFICATION, "classify-ood"), CAPTION_TOKENS)}
"""The longest caption names four colours and four digits; every other answer is one word. Both end with a token of
their own. A model that never learned to classify may reply with a caption, and the record should show that."""


def read_questions(task: str, split: str) -> list[Sample]:
    """The questions of one task; the world is exported on the first use."""
    path = Path(resolve(f"tinyworld:{split}/{task}.json"))
    return SOURCES["llava"](path, path.parent)


def benchmark(task: str, split: str = "test") -> Benchmark:
    """The benchmark of one task, exact match first."""
    more = METRICS.get(task, {})
    chance = {metric: CHANCE[task] for metric in ("exact_match", *more) if metric != "label_named"}
    return Benchmark(
        name=f"tinyworld/{task}",
        paper="Yarbus; handwriting: E. Alpaydin and C. Kaynak, UCI Optical Recognition of Handwritten Digits",
        licence="Apache-2.0; handwriting CC BY 4.0",
        samples=partial(read_questions, task, split),
        protocols={"official": Protocol(max_new_tokens=MAX_NEW_TOKENS.get(task, 2))},
        metrics={"exact_match": accuracy, **more},
        kind="classification" if more else None,
        chance=chance if more else CHANCE[task],
    )


READ = benchmark("read")
LOCATE = benchmark("locate")
EXIST = benchmark("exist")
COLOUR = benchmark("colour")
CAPTION = benchmark("caption")
SIZE = benchmark("size")
LEAN = benchmark("lean")
CLASSIFY = benchmark("classify")
CLASSIFY_CLOSED = benchmark("classify-closed")
CLASSIFY_OOD = benchmark("classify-ood")
