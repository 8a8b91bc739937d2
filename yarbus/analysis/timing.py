"""How long the parts of a forward or a step take, and how much a forward keeps for its backward.

On an accelerator, work is only queued by the time a call returns: each mark waits until the device is done. What the
host could have prepared meanwhile is not hidden then, some microseconds a mark.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

OTHER = "other"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""``processor`` counts what this process used of all cores: other work on the machine hardly changes it. It knows
nothing of an accelerator."""


def now(device: torch.device, clock: str = "wall") -> float:
    """Seconds on a clock that starts anywhere, once the device has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return CLOCKS[clock]()


class Laps:
    """Seconds by part. One part runs at any time, so that the parts of a span add up to it."""

    def __init__(self, device: torch.device, clock: str = "wall", part: str = OTHER) -> None:
        self.device, self.clock, self.part = device, clock, part
        self.seconds: dict[str, float] = {}
        self.since = now(device, clock)

    def switch(self, part: str) -> str:
        """From now on this part runs; returns the one that ran."""
        at, before = now(self.device, self.clock), self.part
        self.seconds[before] = self.seconds.get(before, 0.0) + at - self.since
        self.part, self.since = part, at
        return before

    def take(self) -> dict[str, float]:
        """The seconds of parts so far, which are then forgotten."""
        found, self.seconds = self.seconds, {}
        return found


@contextmanager
def timed_modules(laps: Laps, parts: Sequence[tuple[nn.Module, Callable[[], str]]]) -> Iterator[None]:
    """While it is entered, a module's forward counts for its part; of modules in each other for the innermost one."""
    running: list[str] = []
    hooks = []

    def end(module: nn.Module, args: Any, output: Any) -> None:
        laps.switch(running.pop())

    for module, part in parts:

        def begin(module: nn.Module, args: Any, part: Callable[[], str] = part) -> None:
            running.append(laps.switch(part()))

        hooks += [module.register_forward_pre_hook(begin, prepend=True), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Kept:
    """While it is entered, adds up what autograd keeps for a backward: each storage once, without those it is told of.

    The backward must follow: until then what a forward kept may keep itself alive.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._found: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._found[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def nbytes(self) -> int:
        """Read it before the backward: freed memory is given out again, under the same address."""
        return sum(self._found.values())

    def __enter__(self) -> "Kept":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
