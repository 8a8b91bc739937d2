"""Parts of a span add up to it, the innermost part counts, and what a forward keeps is counted once."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from yarbus.analysis import timing
from yarbus.analysis.timing import Kept, Laps, now, timed_modules

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by one at each look."""
    ticks = itertools.count()
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: float(next(ticks)))


def test_each_instant_counts_for_the_part_that_runs(ticking):
    laps = Laps(CPU)
    assert [laps.switch("forward"), laps.switch("backward"), laps.switch("other")] == ["other", "forward", "backward"]
    assert laps.take() == {"other": 1.0, "forward": 1.0, "backward": 1.0}
    assert laps.switch("rows") == "other" and laps.take() == {"other": 1.0}


def test_a_module_inside_another_counts_for_itself_alone_and_hooks_go(ticking):
    inner, outer = nn.Linear(2, 2), nn.Sequential(nn.Identity())
    outer.append(inner)
    laps = Laps(CPU)
    with timed_modules(laps, [(outer, lambda: "outer"), (inner, lambda: "inner")]):
        outer(torch.zeros(1, 2))
    # Looks at the clock: outer begins, inner begins, inner ends, outer ends.
    assert laps.take() == {"other": 1.0, "outer": 2.0, "inner": 1.0}
    outer(torch.zeros(1, 2))
    assert laps.take() == {}


def test_the_processors_clock_stands_still_while_the_process_sleeps(monkeypatch):
    start = now(CPU, "processor")
    timing.time.sleep(0.2)
    assert now(CPU, "processor") - start < 0.1


def test_kept_bytes_are_those_of_distinct_storages_without_weights():
    layer = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    tokens = torch.randn(3, 8)
    with Kept(layer.parameters()) as kept:
        output = layer(tokens)
    found = kept.nbytes
    output.sum().backward()
    # The input, the activation's input, and its output: 3 rows of 8, 16 and 16 numbers.
    assert found == 4 * 3 * (8 + 16 + 16)
    with Kept([]) as kept:
        output = layer(tokens)
    assert kept.nbytes == found + layer[2].weight.nbytes  # whose input needs a gradient
    output.sum().backward()


def test_of_a_checkpointed_block_only_its_input_is_kept():
    layer = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    tokens = torch.randn(3, 8, requires_grad=True)
    with Kept(layer.parameters()) as kept:
        output = checkpoint(layer, tokens, use_reentrant=False)
    assert kept.nbytes == tokens.nbytes
    output.sum().backward()
