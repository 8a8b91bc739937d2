"""How far long work is: a bar with the time left on a terminal, a plain line now and then elsewhere. On stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""


class Advance(Protocol):
    """Tells that ``count`` more are done."""

    def __call__(self, count: int) -> None: ...


def _time_left(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def progress_of(name: str, total: int, shown: bool) -> Iterator[Advance]:
    """Counts to ``total``; ``shown=False`` prints nothing."""
    console = Console(stderr=True)
    if not shown or total == 0:
        yield lambda count: None
        return
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(name, total=total)
            yield lambda count: bar.advance(task, count)
        return

    started = last = monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = monotonic()
        if done >= total or now - last >= PLAIN_SECONDS:
            last = now
            left = _time_left((now - started) / done * (total - done))
            line = f"{name}: {done}/{total}, {left} left"
            console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    yield advance
