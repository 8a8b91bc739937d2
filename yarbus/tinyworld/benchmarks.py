"""One benchmark per task: the test split's questions, in phrasings that training never used."""

from functools import partial
from pathlib import Path

from yarbus.core.plugins import resolve
from yarbus.data.sample import Sample
from yarbus.data.sources import SOURCES
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.scoring import accuracy
from yarbus.tinyworld.tasks import TASKS

MAX_NEW_TOKENS = {"caption": 9}
"""The longest caption names four colours and four digits; every other answer is one word. Both end with a token of
their own."""


def read_questions(task: str, split: str) -> list[Sample]:
    """The questions of one task; the world is exported on the first use."""
    path = Path(resolve(f"tinyworld:{split}/{task}.json"))
    return SOURCES["llava"](path, path.parent)


def benchmark(task: str, split: str = "test") -> Benchmark:
    """The benchmark of one task; gates measure it on ``validation``."""
    return Benchmark(
        name=f"tinyworld/{task}",
        paper="Yarbus; handwriting: E. Alpaydin and C. Kaynak, UCI Optical Recognition of Handwritten Digits",
        licence="Apache-2.0; handwriting CC BY 4.0",
        samples=partial(read_questions, task, split),
        protocols={"official": Protocol(max_new_tokens=MAX_NEW_TOKENS.get(task, 2))},
        metrics={"exact_match": accuracy},
        chance=TASKS[task].chance,
    )


READ = benchmark("read")
LOCATE = benchmark("locate")
EXIST = benchmark("exist")
COLOUR = benchmark("colour")
CAPTION = benchmark("caption")
SIZE = benchmark("size")
LEAN = benchmark("lean")
