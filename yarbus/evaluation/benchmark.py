"""What a benchmark is: a reader of questions, a prompt length and a judge by name, and named metrics.

A benchmark scores every reply right or wrong with the judge of a *protocol*; a metric turns all
replies into one number, a fraction in [0, 1] (or the benchmark's own points).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import benchmark_table
from yarbus.core.table import closest
from yarbus.data.sample import Sample
from yarbus.evaluation.scoring import Judge, Metric, accuracy, exact_match

BENCHMARKS = benchmark_table()
"""Every benchmark that an installed plug-in brings; user code may ``add`` its own."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to ask and to judge: the same data under another protocol is another number."""

    name: str = "official"
    max_new_tokens: int = 16
    """Where a reply is cut."""
    judge: Judge = exact_match
    prompts: tuple[str, ...] = ()
    """What an encoder with a text side compares a picture with, ``{}`` for each class; empty where a language model is
    asked the question."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A question set with what is needed to score it."""

    name: str
    paper: str = ""
    licence: str = ""
    samples: Callable[[], list[Sample]]
    """Reads the questions; the last turn of each sample is the right answer. Called when needed, not before."""
    protocols: Mapping[str, Protocol] = field(default_factory=lambda: {"official": Protocol()})
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": accuracy})
    """The first one is the benchmark's headline number."""
    classes: tuple[str, ...] = ()
    """Names to choose from, where the set is one of classes. Judging replies again needs them, not the set."""
    kind: Literal["classification", "instruction"] | None = None
    """Which side of the forgetting panel it stands on; None goes by its name: ``classify...`` is classification."""
    chance: float | Mapping[str, float] | None = None
    """What guessing reaches, for every metric or by metric; None if nobody can say."""

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name; an unknown one is a ConfigError."""
        if name not in self.protocols:
            raise ConfigError(
                f"benchmark '{self.name}' has no protocol '{name}'",
                fix=f"use one of: {closest(name, list(self.protocols))}",
            )
        return self.protocols[name]

    def metrics_of(self, protocol: Protocol) -> Mapping[str, Metric]:
        """The metrics under a protocol. An encoder replies with a class, which is right in one way only."""
        if not protocol.prompts:
            return self.metrics
        return {name: metric for name, metric in self.metrics.items() if metric is accuracy}

    def chance_of(self, metric: str) -> float | None:
        """What guessing reaches on one metric, or None."""
        return self.chance.get(metric) if isinstance(self.chance, Mapping) else self.chance
