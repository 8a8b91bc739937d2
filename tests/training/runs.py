"""Stopping a run where a test wants it stopped, and telling whether two runs are the same to the bit."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from yarbus.core.records import read_jsonl

STAGES = ("align", "instruct")


class Stopped(Exception):
    """Raised in the middle of an update."""


@dataclass
class StopAt:
    """A reader that interrupts before the update of ``step`` in the ``stage``-th stage it sees."""

    stage: int
    step: int
    stages_seen: int = 0
    last_step: int = 0

    def __call__(self, step: int, model: nn.Module, sample_ids: list[str]) -> None:
        self.stages_seen += step <= self.last_step or self.last_step == 0
        self.last_step = step
        if (self.stages_seen, step) == (self.stage, self.step):
            raise Stopped


def final_hash(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter.safetensors").read_bytes()).hexdigest()


def curves(run: Path, stages: Sequence[str] = STAGES) -> dict[str, list[tuple]]:
    """Step, loss, rates and norms of every logged line, by stage; without times."""
    return {
        stage: [
            (line["step"], line["epoch"], line["loss"], line["gradient_norm"], str(line["groups"]))
            for line in read_jsonl(run / "stages" / stage / "metrics.jsonl")
        ]
        for stage in stages
    }
