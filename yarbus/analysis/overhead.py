"""What a way of tuning costs: each variant's seconds and bytes, and how many times those of another they are.

Variants take turns, a fresh process each time, every other round in the opposite order: a machine that warms up or has
other work slows all of them. Seconds are medians. Those of one turn are more alike than those of two, so intervals draw
rounds first and repeats within them (2,000 draws); a ratio draws the same rounds for both variants. With few rounds
such intervals are too narrow, and with one they say nothing about other times of day.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import Any

import numpy as np

Turn = Mapping[str, Any]
"""What one turn measured: ``steps`` and ``answers``, each a list of seconds by part; ``bytes``; ``failed``."""
STEP_PARTS = ("forward", "backward", "update", "other")
ANSWER_PARTS = ("text_encoder", "tower", "projector", "prefill", "decode", "other")
BESIDE = {"steps": "rows", "answers": "processor"}
"""Parts that pictures and words take before the model is called: told apart, and not in the total."""
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is measured."""

    rounds: int = 3
    """Turns of each variant."""
    warmup: int = 2
    """Steps, and answers, at the beginning of a turn that do not count."""
    steps: int = 5
    """Optimizer steps of a turn that count."""
    answers: int = 5
    """Answers of a turn that count, one question at a time."""
    new_tokens: int = 16
    """Tokens of each answer, no more and no fewer."""
    clock: str = "wall"
    """One of ``analysis.timing.CLOCKS``."""


@dataclass(frozen=True)
class Measured:
    """A median, or a ratio of two, with its 95 % interval; of a single repeat there is none."""

    value: float
    low: float | None
    high: float | None


def orders(variants: Sequence[str], rounds: int) -> list[list[str]]:
    """Who is measured when: each round has every variant once, every other round the last one first."""
    return [list(variants if number % 2 == 0 else reversed(variants)) for number in range(rounds)]


def _drawn(rounds: Sequence[Sequence[float]], chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """[draws] medians of repeats redrawn within the chosen rounds [draws, rounds]."""
    values = np.asarray(rounds, dtype=float)
    repeats = generator.integers(values.shape[1], size=(*chosen.shape, values.shape[1]))
    return np.median(values[chosen[..., None], repeats].reshape(len(chosen), -1), axis=1)


def estimate(
    rounds: Sequence[Sequence[float]], reference: Sequence[Sequence[float]] | None = None, seed: int = 0
) -> Measured:
    """The median over all repeats of all rounds, or how many times the reference's it is. ``[rounds][repeats]``."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(rounds), size=(DRAWS, len(rounds)))
    value, draws = float(np.median(np.asarray(rounds))), _drawn(rounds, chosen, generator)
    if reference is not None:
        value, draws = value / float(np.median(np.asarray(reference))), draws / _drawn(reference, chosen, generator)
    if np.size(rounds) == 1:
        return Measured(value, None, None)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Measured(value, float(low), float(high))


def _total(kind: str) -> Callable[[Mapping[str, float]], float]:
    return lambda parts: sum(seconds for part, seconds in parts.items() if part != BESIDE[kind])


def _rounds(
    turns: Mapping[int, Turn], kind: str, seconds: Callable[[Mapping[str, float]], float | None]
) -> dict[int, list[float]]:
    """Round -> seconds of each of its repeats, of the rounds that have them all."""
    found = {number: [seconds(parts) for parts in turn.get(kind) or ()] for number, turn in turns.items()}
    return {number: some for number, some in found.items() if some and None not in some}  # type: ignore[misc]


def _part(turns: Mapping[int, Turn], kind: str, part: str, share: float = 1.0) -> dict[str, float] | None:
    found = _rounds(turns, kind, lambda parts: parts[part] * share if part in parts else None)
    return asdict(estimate(list(found.values()))) if found else None


def _times(turns: Mapping[int, Turn], others: Mapping[int, Turn], kind: str) -> dict[str, float] | None:
    """How many times the others' seconds, over the rounds that both have."""
    mine, theirs = (_rounds(some, kind, _total(kind)) for some in (turns, others))
    both = sorted(mine.keys() & theirs.keys())
    return asdict(estimate([mine[n] for n in both], [theirs[n] for n in both])) if both else None


def _seconds(
    turns: Mapping[int, Turn], references: Mapping[str, Mapping[int, Turn]], kind: str, parts: Sequence[str]
) -> dict[str, Any] | None:
    totals = _rounds(turns, kind, _total(kind))
    if not totals:
        return None
    return {
        "seconds": asdict(estimate(list(totals.values()))),
        "times": {name: _times(turns, others, kind) for name, others in references.items()},
        "parts": {part: _part(turns, kind, part) for part in parts},
        BESIDE[kind]: _part(turns, kind, BESIDE[kind]),
    }


def _typical(turns: Mapping[int, Turn], kind: str) -> int | None:
    """The median over rounds, or the lower of two: what a process has left from loading only ever adds to a peak."""
    known = [turn["bytes"][kind] for turn in turns.values() if kind in turn["bytes"]]
    return median_low(known) if known else None


def _bytes(turns: Mapping[int, Turn], references: Mapping[str, Mapping[int, Turn]], kind: str) -> dict[str, Any] | None:
    found = _typical(turns, kind)
    if found is None:
        return None
    others = {name: _typical(some, kind) for name, some in references.items()}
    return {"bytes": found, "times": {name: found / other if other else None for name, other in others.items()}}


def costs(
    turns: Mapping[str, Mapping[int, Turn]], references: Sequence[str], new_tokens: int
) -> dict[str, dict[str, Any]]:
    """Variant -> what it costs: variant -> round -> what that turn measured.

    ``step`` and ``answer`` hold ``seconds``, ``times`` those of each reference, and the ``parts`` that add up to them;
    of an answer also the seconds of one decoded token. Bytes are ``training`` and ``answering``, the most at once, and
    ``kept`` by one forward for its backward. What could not be measured is None, with the reason in ``failed``.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, mine in turns.items():
        others = {reference: turns[reference] for reference in references if reference != name}
        step = _seconds(mine, others, "steps", STEP_PARTS)
        answer = _seconds(mine, others, "answers", ANSWER_PARTS)
        if answer is not None:
            answer["token"] = _part(mine, "answers", "decode", 1 / max(1, new_tokens - 1))
        memory = {kind: _bytes(mine, others, kind) for kind in ("training", "answering", "kept")}
        failed = {phase: why for turn in mine.values() for phase, why in turn["failed"].items()}
        found[name] = {"step": step, "answer": answer, **memory, "failed": failed}
    return found
