"""How far runs are, how fast they go, and when all will be done: read off their folders, shown in one line."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from yarbus.core.records import read_json, read_jsonl
from yarbus.evaluation.folder import benchmark_folder
from yarbus.studies.work import Work

SECONDS_BETWEEN_LINES = 20.0


@dataclass
class Pace:
    """How far one run is, read off its folder, and how fast it went."""

    work: Work
    steps: int = 0
    step_seconds: float | None = None
    replies: int = 0
    questions: int | None = None
    reply_seconds: float | None = None
    is_done: bool = False

    def look(self) -> None:
        """Reads the run's records again."""
        lines = [
            line
            for stage in self.work.stages
            if (path := self.work.run / "stages" / stage / "metrics.jsonl").is_file()
            for line in read_jsonl(path)[-1:]
        ]
        self.steps = sum(line["step"] for line in lines)
        if self.steps:
            self.step_seconds = sum(line["wall_seconds"] for line in lines) / self.steps
        folders = [benchmark_folder(self.work.run, name, "official") for name in self.work.benchmarks]
        counts = [read_json(path)["num_samples"] for f in folders if (path := f / "identity.json").is_file()]
        self.questions = round(sum(counts) / len(counts) * len(folders)) if counts else None
        started = [f / "replies.jsonl" for f in folders if (f / "replies.jsonl").is_file()]
        self.replies = sum(len(read_jsonl(path)) for path in started)
        if self.replies:
            began = min((path.parent / "identity.json").stat().st_mtime for path in started)
            ended = max(path.stat().st_mtime for path in started)
            self.reply_seconds = (ended - began) / self.replies

    def seconds_left(self, step_seconds: float, reply_seconds: float, questions: int) -> float:
        """Own speed where it is known, else the others' mean. The run's number of steps must be known."""
        if self.is_done:
            return 0.0
        assert self.work.steps is not None
        steps = max(self.work.steps - self.steps, 0) * (self.step_seconds or step_seconds)
        return steps + max((self.questions or questions) - self.replies, 0) * (self.reply_seconds or reply_seconds)


def seconds_left(paces: Sequence[Pace], jobs: int) -> float | None:
    """Time until all runs are done, from the speed of those that have begun.

    None before any has, and where epochs decide: only the worker, which reads the data, knows how many steps they are.
    """

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    steps = [pace.step_seconds for pace in paces if pace.step_seconds]
    if not steps or any(pace.work.steps is None for pace in paces if not pace.is_done):
        return None
    replies = [pace.reply_seconds for pace in paces if pace.reply_seconds]
    questions = [pace.questions for pace in paces if pace.questions]
    left = [pace.seconds_left(mean(steps), mean(replies), round(mean([*map(float, questions)]))) for pace in paces]
    return max(max(left), sum(left) / jobs)


class Display:
    """One line that says how far a comparison is: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, paces: Sequence[Pace], jobs: int, shown: bool) -> None:
        self.paces, self.jobs, self.shown = paces, jobs, shown
        self.console = Console(stderr=True)
        self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if shown and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("runs", total=1.0, left="")

    def update(self, done: int) -> None:
        """Looks at the runs and says where they are."""
        if not self.shown:
            return
        for pace in self.paces:
            if not pace.is_done:
                pace.look()
        left = seconds_left(self.paces, self.jobs)
        until = "" if left is None else f"about {_duration(left)} left"
        busy = ", ".join(_stand(pace) for pace in self.paces if pace.steps and not pace.is_done)
        text = f"{done}/{len(self.paces)} runs done" + (f"; {busy}" if busy else "")
        if self.bar is not None:
            shares = [1.0 if pace.is_done else _share(pace) for pace in self.paces]
            self.bar.update(self.task, completed=sum(shares) / len(shares), description=text, left=until)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.console.print(f"{text}; {until}" if until else text, markup=False, highlight=False, soft_wrap=True)


def _share(pace: Pace) -> float:
    """Training counts as 4/5 of a run, its evaluation as the rest: for the bar only."""
    trained = min(pace.steps / pace.work.steps, 1.0) if pace.work.steps else 0.0
    asked = min(pace.replies / pace.questions, 1.0) if pace.questions else 0.0
    return 0.8 * trained + 0.2 * asked


def _stand(pace: Pace) -> str:
    if pace.replies:
        return f"{pace.work.label} {pace.replies}/{pace.questions} questions"
    return f"{pace.work.label} step {pace.steps}" + (f"/{pace.work.steps}" if pace.work.steps else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
