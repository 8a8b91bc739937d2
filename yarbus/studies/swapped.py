"""The swapped-question test: what a task loses when the eyes are told another question than the language model reads.

A tower that is conditioned but does not use its context loses nothing. Two swaps, so that the reason shows: with a
question of the *same* task (which words matter little if only the task does), and with one of *another* task about
the same picture where there is one. Replies are judged as the benchmark judges them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from yarbus.analysis.losses import paired_estimate
from yarbus.core.errors import ConfigError
from yarbus.core.progress import progress_of
from yarbus.data.sample import Sample
from yarbus.evaluation.benchmark import Protocol
from yarbus.evaluation.replies import answer_of, question_of
from yarbus.evaluation.runner import generate, load_benchmark
from yarbus.studies.measuring import picture_of

RULE = (
    "own: the question itself; same_task: a question of the same task in other words or about another picture; "
    "other_task: a question of another task, about the same picture where there is one. "
    "The language model always reads the right question. Partners are chosen by a hash of the ids."
)
OWN, SAME, OTHER = "own", "same_task", "other_task"


def _order(sample: Sample, other: Sample) -> bytes:
    return sha256(f"{sample.id}|{other.id}|{other.task}".encode()).digest()


def partners(samples: Sequence[Sample], kind: str) -> list[Sample | None]:
    """For each sample the one whose question the eyes are told; None where none with other words exists."""
    by_task, by_picture = defaultdict(list), defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample)
        by_picture[picture_of(sample)].append(sample)
    # A few candidates by hash are enough, and keep this linear.
    others = {
        task: sorted((s for s in samples if s.task != task), key=lambda s: sha256(s.id.encode()).digest())[:64]
        for task in by_task
    }

    def partner(sample: Sample) -> Sample | None:
        here = [one for one in by_picture[picture_of(sample)] if one.task != sample.task]
        for candidates in [by_task[sample.task][:256]] if kind == SAME else [here, others[sample.task]]:
            found = [one for one in candidates if question_of(one) != question_of(sample)]
            if found:
                return min(found, key=lambda one: _order(sample, one))
        return None

    return [partner(sample) for sample in samples]


def choose(names: Sequence[str], per_task: int, protocol: str) -> list[tuple[Sample, Protocol]]:
    """The first questions of each task of the benchmarks in the order of a hash of their id, with their protocol.

    A benchmark whose questions name no task is one task.
    """
    found: dict[str, list[tuple[Sample, Protocol]]] = defaultdict(list)
    for name in names:
        benchmark = load_benchmark(name)
        for sample in benchmark.samples():
            if sample.images:
                task = sample.task or name
                found[task].append((replace(sample, task=task), benchmark.protocol(protocol)))
    return [
        entry
        for task in found
        for entry in sorted(found[task], key=lambda entry: sha256(entry[0].id.encode()).digest())[:per_task]
    ]


def _verdicts(
    model: Any,
    processor: Any,
    asked: Sequence[tuple[Sample, Protocol]],
    asked_by: Sequence[Sample],
    batch: int,
    advance: Callable[[int], None],
) -> list[bool]:
    """Whether each reply is right; batches hold questions of one protocol."""
    verdicts = [False] * len(asked)
    by_protocol: dict[Any, list[int]] = defaultdict(list)
    for index, (_, protocol) in enumerate(asked):
        by_protocol[protocol].append(index)
    for protocol, indices in by_protocol.items():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            texts = generate(model, processor, [asked[i][0] for i in chosen], protocol, [asked_by[i] for i in chosen])
            for index, text in zip(chosen, texts, strict=True):
                verdicts[index] = bool(protocol.judge(text, answer_of(asked[index][0])))
            advance(len(chosen))
    return verdicts


def swapped_questions(
    model: Any,
    processor: Any,
    names: Sequence[str],
    *,
    per_task: int = 120,
    batch: int = 64,
    protocol: str = "official",
    progress: bool = False,
) -> dict[str, Any]:
    """The record swapped.json: accuracy by task with the own and with swapped questions, and paired losses.

    A loss is "own minus swapped" in fractions, over the questions that have a partner, with a paired bootstrap by
    picture. A model that hears no question is refused: there would be nothing to swap.
    """
    if getattr(processor, "context_tokenizer", None) is None:
        raise ConfigError(
            "no question to swap", why="this model's eyes hear none", fix="name a run that routes by text"
        )
    asked = choose(names, per_task, protocol)
    if not asked:
        raise ConfigError("no question to swap", why="the benchmarks hold no picture", fix="name other benchmarks")
    samples = [sample for sample, _ in asked]
    told: dict[str, Sequence[Sample | None]] = {OWN: samples} | {
        kind: partners(samples, kind) for kind in (SAME, OTHER)
    }
    right: dict[str, list[bool | None]] = {}
    was_training = model.training
    model.eval()
    try:
        total = sum(partner is not None for some in told.values() for partner in some)
        with progress_of("swapped questions", total, progress) as advance:
            for kind, some in told.items():
                known = [(index, partner) for index, partner in enumerate(some) if partner is not None]
                asked_by = [partner for _, partner in known]
                verdicts = _verdicts(model, processor, [asked[i] for i, _ in known], asked_by, batch, advance)
                right[kind] = [None] * len(samples)
                for (index, _), verdict in zip(known, verdicts, strict=True):
                    right[kind][index] = verdict
    finally:
        model.train(was_training)
    by_task = {
        task: _line(samples, right, [i for i, sample in enumerate(samples) if sample.task == task])
        for task in dict.fromkeys(sample.task for sample in samples)
    }
    total_line = _line(samples, right, list(range(len(samples))))
    return {"tasks": by_task, "mean": {key: value for key, value in total_line.items() if key != "n"}, "rule": RULE}


def _line(
    samples: Sequence[Sample], right: Mapping[str, Sequence[bool | None]], chosen: Sequence[int]
) -> dict[str, Any]:
    """One task, or all of them with every task counting the same."""
    line: dict[str, Any] = {"n": len(chosen)}
    for kind in (OWN, SAME, OTHER):
        known = [i for i in chosen if right[kind][i] is not None]
        line[kind] = _mean(samples, [float(bool(right[kind][i])) for i in known], known)
        if kind != OWN:
            line[f"loss_{kind}"] = _loss(samples, right, kind, known)
    return line


def _mean(samples: Sequence[Sample], values: Sequence[float], indices: Sequence[int]) -> float | None:
    by_task = defaultdict(list)
    for value, index in zip(values, indices, strict=True):
        by_task[samples[index].task].append(value)
    means = [sum(some) / len(some) for some in by_task.values()]
    return sum(means) / len(means) if means else None


def _loss(
    samples: Sequence[Sample], right: Mapping[str, Sequence[bool | None]], kind: str, known: Sequence[int]
) -> dict[str, float | None]:
    return paired_estimate(
        [float(bool(right[OWN][i])) for i in known],
        [float(bool(right[kind][i])) for i in known],
        [picture_of(samples[i]) for i in known],
        tasks=[samples[i].task for i in known],
    )
