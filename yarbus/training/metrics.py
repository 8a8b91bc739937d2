"""The curve of a stage on disk: ``metrics.jsonl``, one line per logged step.

A line: ``{"step", "epoch", "loss", "gradient_norm", "groups": {name: {"learning_rate", "gradient_norm"}},
"wall_seconds", "samples_per_second", "peak_bytes"}``. ``loss`` is the mean over the updates since the line before;
rates and norms (L2, before clipping) are those of this very update. Where ``block_decay`` gives a group several rates,
``learning_rate`` is the highest and ``lowest_learning_rate`` stands beside it. ``wall_seconds`` counts training only,
over all sessions; ``peak_bytes`` is the most memory any session took so far, of the first process
(``training.memory`` says which memory). Lines written before it was measured have none.
"""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yarbus.core.records import JsonlWriter, read_jsonl, write_text


class MetricsWriter(TrainerCallback):
    """Writes the lines of a ``Guarded`` trainer as they are logged."""

    def __init__(self, path: Path) -> None:
        self.writer = JsonlWriter(path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self.writer.write(line_of(state.global_step, logs))


def line_of(step: int, logs: dict[str, Any]) -> dict[str, Any]:
    """A logged dictionary (flat, as trackers want it) as a line of ``metrics.jsonl``."""
    groups = [key.removeprefix("learning_rate/") for key in logs if key.startswith("learning_rate/")]
    names = ("learning_rate", "lowest_learning_rate", "gradient_norm")
    return {
        "step": step,
        "epoch": logs["epoch"],
        "loss": logs["loss"],
        "gradient_norm": logs["grad_norm"],
        "groups": {
            group: {name: logs[f"{name}/{group}"] for name in names if f"{name}/{group}" in logs} for group in groups
        },
        "wall_seconds": logs["wall_seconds"],
        "samples_per_second": logs["samples_per_second"],
        "peak_bytes": logs["peak_bytes"],
    }


def drop_after(path: Path, step: int) -> None:
    """Removes the lines of steps that a resumed run will do again, so that each step is told once."""
    if not path.exists():
        return
    kept = [line for line in read_jsonl(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
