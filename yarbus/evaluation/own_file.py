"""A user's own LLaVA-format file as a benchmark: ``file:PATH``.

Every answered turn is one question, with the turns before it as they stand in the file. The judge is
exact match; besides the accuracy of the whole file there is one metric per task the file names. Chance
is what always giving the commonest answer (of the task) would reach in this file.
"""

from collections import defaultdict
from dataclasses import replace

from yarbus.core.errors import DataError
from yarbus.core.own_names import OwnName
from yarbus.data.sample import IMAGE_TAG, Sample
from yarbus.data.sources import SOURCES
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.scoring import Metric, TaskAccuracy, accuracy, commonest_answer


def questions(samples: list[Sample]) -> list[Sample]:
    """One sample per answered turn; a sample with several answers is numbered ``id#0``, ``id#1``, ...

    Questions of one conversation stay one group.
    """
    found = []
    for sample in samples:
        answered = [index for index, turn in enumerate(sample.turns) if turn.role == "assistant"]
        if len(answered) == 1:
            found.append(sample)
            continue
        for number, index in enumerate(answered):
            turns = sample.turns[: index + 1]
            num_images = sum(turn.text.count(IMAGE_TAG) for turn in turns)
            found.append(
                replace(
                    sample,
                    id=f"{sample.id}#{number}",
                    images=sample.images[:num_images],
                    turns=turns,
                    group=sample.group or sample.id,
                )
            )
    return found


def read_questions(own: OwnName) -> list[Sample]:
    """The questions of ``file:PATH``; pictures are looked for relative to the file's folder."""
    own.check()
    samples = questions(SOURCES["llava"](own.place, None))
    if not samples:
        raise DataError("no question with an answer", where=own.place, fix="add rows that end with an answer")
    return samples


def file_benchmark(own: OwnName, samples: list[Sample]) -> Benchmark:
    """The benchmark ``file:PATH`` over its questions: exact match, overall and for each task they name."""
    answers: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        answers["accuracy"].append(sample.turns[-1].text)
        if sample.task is not None and sample.task != "accuracy":
            answers[sample.task].append(sample.turns[-1].text)
    metrics: dict[str, Metric] = {task: accuracy if task == "accuracy" else TaskAccuracy(task) for task in answers}
    return Benchmark(
        name=own.name,
        samples=lambda: samples,
        protocols={"official": Protocol(max_new_tokens=64)},
        metrics=metrics,
        chance={task: commonest_answer(given) for task, given in answers.items()},
    )
