"""What finished runs were asked: scores of variants that answered other questions do not stand beside each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from yarbus.core.errors import DataError
from yarbus.core.records import read_record
from yarbus.core.sections import TEXT_CACHE
from yarbus.evaluation.folder import benchmark_folder
from yarbus.studies.work import Work

PROTOCOL = "official"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One fact about an evaluation that must be the same wherever ``share`` is."""

    fact: str
    """``questions``, ``length`` (of replies) or ``prompt`` (what the processor makes of one fixed question)."""
    benchmark: str | None
    """None for a fact that all benchmarks share."""
    share: str
    value: str


def _readings(work: Work) -> str:
    """What decides how a processor shows a question: runs with the same text here show the same."""
    projectors = [stage["train"].get("projector") for stage in work.recipe["stages"].values()]
    adapter = work.adapter / "adapter.json"
    found = read_record(adapter) if adapter.is_file() else {}
    encoders = sorted((name, one["path"]) for name, one in (found.get("vision_encoders") or {}).items())
    reads = f"{found.get('text_encoder') is not None} {found.get('reads_prompt', False)} {encoders}"
    question = {key: value for key, value in work.recipe.get("question", {}).items() if key not in TEXT_CACHE}
    return f"{work.base} {question} {reads} {projectors}"


def _scores(work: Work, benchmark: str) -> Iterator[dict[str, Any]]:
    """The records of whole evaluations; one with questions that failed, or that stopped, is asked again."""
    for place in work.places:
        path = benchmark_folder(work.run, benchmark, PROTOCOL, place) / "scores.json"
        if path.is_file():
            scores = read_record(path)
            if scores.get("num_replies") == scores.get("num_samples") and not scores.get("num_errors"):
                yield scores


def asked_of(work: Work) -> list[Asked]:
    """The facts of every whole evaluation of a run, each once for each value."""
    found: dict[Asked, None] = {}
    for benchmark in work.benchmarks:
        for scores in _scores(work, benchmark):
            named = (
                ("questions", benchmark, benchmark, scores.get("data")),
                ("length", benchmark, benchmark, scores.get("max_new_tokens")),
                ("prompt", None, _readings(work), scores.get("prompt")),
            )
            for fact, name, share, value in named:
                if value is not None:
                    found[Asked(fact=fact, benchmark=name, share=share, value=str(value))] = None
    return list(found)


def refuse_other_questions(works: Sequence[Work]) -> None:
    """Raises before any work where a benchmark is not what finished runs answered and others are yet to be asked.

    Raises:
        DataError: it names the benchmark and the first run that answered other questions.
    """
    from yarbus.evaluation.identity import questions_hash
    from yarbus.evaluation.runner import load_benchmark

    waiting = {name for work in works if not work.is_finished() for name in work.benchmarks}
    now: dict[tuple[str, str], str] = {}
    for work in works:
        for one in asked_of(work):
            if one.benchmark not in waiting or one.fact == "prompt":
                continue
            if (one.fact, one.benchmark) not in now:
                benchmark = load_benchmark(one.benchmark)
                now["questions", one.benchmark] = questions_hash(benchmark.samples())
                now["length", one.benchmark] = str(benchmark.protocol(PROTOCOL).max_new_tokens)
            if now[one.fact, one.benchmark] != one.value:
                what = "the benchmark" if one.fact == "questions" else "the length of replies"
                raise DataError(
                    f"{what} changed since '{work.label}' was asked",
                    where=one.benchmark,
                    why=f"{one.value} then, {now[one.fact, one.benchmark]} now",
                    fix="restore it, or name another folder",
                )
