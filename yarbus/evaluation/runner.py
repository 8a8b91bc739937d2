"""Asks a model the questions of a benchmark, keeps every reply, and scores what is on disk.

Replies are appended one line at a time, so a run that was killed goes on where it stopped. The scores
are always made from the file of replies: :func:`rescore` makes them again without a model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.own_names import own_name
from yarbus.core.progress import progress_of
from yarbus.core.records import JsonlWriter, read_json, read_jsonl, write_json
from yarbus.data.sample import Sample
from yarbus.evaluation import classification, own_file
from yarbus.evaluation.asking import Answer, Decoding, ask, reply
from yarbus.evaluation.benchmark import BENCHMARKS, Benchmark, Protocol
from yarbus.evaluation.folder import benchmark_folder
from yarbus.evaluation.identity import SampleHashes, hash_of_questions, model_fingerprint, prompt_fingerprint
from yarbus.evaluation.replies import (
    IDENTITY,
    Row,
    check_unique,
    claim,
    keep,
    question_of,
    reply_of,
    row_of,
    write_rows,
)  # fmt: skip
from yarbus.evaluation.scoring import score


def load_benchmark(name: str, samples: list[Sample] | None = None, classes: Iterable[str] | None = None) -> Benchmark:
    """The benchmark of that name; ``file:PATH`` and the like read their questions unless they are given.

    ``classes``: with given questions, the names to choose from; None takes those of the answers.
    """
    own = own_name(name)
    if own is None:
        return BENCHMARKS[name]
    if own.kind == "file":
        return own_file.file_benchmark(own, own_file.read_questions(own) if samples is None else samples)
    if samples is None:
        choices = classification.read_choices(own)
        samples, classes = choices.samples, choices.names
    return classification.class_benchmark(own, samples, classes)


def errors_allowed(num_samples: int) -> int:
    """How many samples may fail: one in a hundred, in a small benchmark two (questions about one broken picture)."""
    return max(2, num_samples // 100)


def generate(
    model: Any, processor: Any, samples: list[Sample], protocol: Protocol, asked_by: list[Sample] | None = None
) -> list[str]:
    """Greedy replies to one batch of questions, without special tokens, stripped.

    ``asked_by``: samples whose questions reach the eyes in place of their own; the language model reads its own.
    """
    return reply(model, processor, samples, Decoding(max_new_tokens=protocol.max_new_tokens), asked_by)


@dataclass(frozen=True)
class _Generator:
    """A language model that is asked the question."""

    model: Any
    processor: Any
    protocol: Protocol

    def __call__(self, samples: list[Sample]) -> list[str]:
        return generate(self.model, self.processor, samples, self.protocol)


def score_replies(
    answer: Answer, benchmark: Benchmark, protocol: Protocol, identity: Row, folder: Path, *,
    batch: int, progress: bool, max_errors: int | None = None,
) -> Row:  # fmt: skip
    """All missing replies of one benchmark, then its scores. ``identity`` says what replies depend on: ``IDENTITY``."""
    samples = benchmark.samples()
    check_unique(samples)
    sample_hash = SampleHashes()
    hashes = {sample.id: sample_hash(sample) for sample in samples}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"classes": list(benchmark.classes)} if benchmark.classes else {}
    claim(folder, identity, {"num_samples": len(samples), **about})
    kept = keep(folder, hashes)
    missing = [sample for sample in samples if sample.id not in kept]
    # Like lengths pad least, and replies of one task end together.
    missing.sort(key=lambda sample: (len(sample.images), sample.task or "", len(question_of(sample))))
    allowed = errors_allowed(len(samples)) if max_errors is None else max_errors
    failed = 0
    with (
        JsonlWriter(folder / "replies.jsonl") as replies,
        progress_of(f"evaluate {benchmark.name}", len(missing), progress) as advance,
    ):
        for start in range(0, len(missing), batch):
            asked = missing[start : start + batch]
            for sample, text, error in ask(answer, asked):
                replies.write(row_of(sample, hashes[sample.id], protocol, text, error))
                failed += error is not None
                if failed > allowed or failed == len(samples):
                    number = f"all {failed}" if failed == len(samples) else f"more than {allowed} of {len(samples)}"
                    raise DataError(
                        f"{number} samples of {benchmark.name} failed",
                        where=sample.where,
                        why=str(error),
                        fix="mend the samples marked in replies.jsonl; replies so far are kept",
                    )
            advance(len(asked))
    scores = rescore(folder)
    if scores["num_errors"]:
        failures = f"{scores['num_errors']} samples failed and count as wrong"
        message = f"{benchmark.name}: {failures}, see {folder}/replies.jsonl"
        Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
    return scores


def rescore(folder: Path) -> Row:
    """Judges the replies in a benchmark's folder again and writes scores.json; needs no model.

    Returns the record: ``{"metrics": {name: {"value", "n", "low", "high", "interval", "chance"}}, ...}``, values
    as fractions.
    """
    path = folder / "replies.jsonl"
    identity, rows = read_json(folder / "identity.json"), read_jsonl(path)
    if not rows:
        raise DataError("no replies to score", where=path, fix="run the evaluation first")
    samples = [reply_of(row).sample for row in rows]
    benchmark = load_benchmark(identity["benchmark"], samples, identity.get("classes"))
    protocol = benchmark.protocol(identity["protocol"])
    judged = [
        {**row, "is_correct": row["error"] is None and bool(protocol.judge(row["reply"], row["answer"]))}
        for row in rows
    ]
    if judged != rows:
        write_rows(path, judged)
    replies = [reply_of(row) for row in judged]
    metrics = {
        name: {**score(metric, replies), "chance": benchmark.chance_of(name)}
        for name, metric in benchmark.metrics_of(protocol).items()
    }
    scores = {
        **{key: identity[key] for key in IDENTITY},
        "data": hash_of_questions((row["sample_id"], row["sample_hash"]) for row in rows),
        "paper": benchmark.paper,
        "licence": benchmark.licence,
        **({} if benchmark.kind is None else {"kind": benchmark.kind}),
        "num_samples": identity["num_samples"],
        "num_replies": len(rows),
        "num_errors": sum(row["error"] is not None for row in rows),
        "metrics": metrics,
    }
    write_json(folder / "scores.json", scores)
    return scores


def evaluate(
    model: Any,
    processor: Any,
    names: list[str],
    folder: Path,
    *,
    checkpoint: str = "final",
    protocol: str = "official",
    batch: int = 32,
    progress: bool = True,
    max_errors: int | None = None,
) -> dict[str, Row]:
    """Scores of each benchmark by name, made from replies kept below ``folder/evaluation/<checkpoint>/``.

    Only questions without a reply are asked. A sample that fails is recorded, counted as wrong and asked
    again next time; more than ``max_errors`` of them in one benchmark (None: one in a hundred, or two) or all
    of them stop the evaluation (DataError).
    Replies of another model, processor, protocol or data in the same place are refused (MismatchError).
    """
    if batch < 1:
        raise ConfigError(f"batch must be 1 or more, found {batch}", fix="choose a batch of 1 or more")
    benchmarks = {name: load_benchmark(name) for name in names}  # a wrong name is told before the work begins
    for benchmark in benchmarks.values():
        if benchmark.protocol(protocol).prompts:
            why, fix = "its prompts are for an encoder with a text side", "use 'yarbus probe' with such an encoder"
            raise ConfigError(f"protocol '{protocol}' asks no language model", where=benchmark.name, why=why, fix=fix)
    shown = {"model": model_fingerprint(model), "prompt": prompt_fingerprint(processor)}
    was_training = model.training
    model.eval()
    try:
        scores = {}
        for name, benchmark in benchmarks.items():
            chosen = benchmark.protocol(protocol)
            identity = {"benchmark": name, "protocol": protocol, "max_new_tokens": chosen.max_new_tokens, **shown}
            place = benchmark_folder(folder, name, protocol, checkpoint)
            scores[name] = score_replies(
                _Generator(model, processor, chosen),
                benchmark,
                chosen,
                identity,
                place,
                batch=batch,
                progress=progress,
                max_errors=max_errors,
            )
        return scores
    finally:
        model.train(was_training)
