"""How far a stage is and how long it will take: a bar on a terminal, plain lines elsewhere. On stderr."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SECONDS_BETWEEN_LINES = 10.0


class StageProgress(TrainerCallback):
    """Shows one stage's steps, loss and time left."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.loss = "-"
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.started = self.last_line = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step = state.global_step
        if sys.stderr.isatty() and state.is_world_process_zero:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("loss {task.fields[loss]}"), console=Console(stderr=True))
            self.task = self.bar.add_task(
                self.stage, total=state.max_steps, completed=state.global_step, loss=self.loss
            )
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        self.loss = f"{logs['loss']:.4f}"
        if self.bar is not None:
            self.bar.update(self.task, loss=self.loss)
            return
        now, done = time.monotonic(), state.global_step - self.first_step
        is_last = state.global_step >= state.max_steps
        if state.is_world_process_zero and (is_last or now - self.last_line >= SECONDS_BETWEEN_LINES):
            self.last_line = now
            left = (now - self.started) / max(done, 1) * (state.max_steps - state.global_step)
            line = f"{self.stage} {state.global_step}/{state.max_steps} loss {self.loss}"
            sys.stderr.write(line + (f" {duration(left)} left\n" if not is_last else "\n"))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the terminal back; also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def duration(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``3:12:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
