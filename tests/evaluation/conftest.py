"""A tiny random Llava, pictures, questions about them, and a benchmark made of these."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import llava
from yarbus.data.sample import Sample, Turn
from yarbus.evaluation import runner
from yarbus.evaluation.benchmark import Benchmark, Protocol
from yarbus.evaluation.scoring import accuracy

QUESTIONS = (
    "what digit is red ?",
    "where is the blue one ?",
    "is there a green digit ?",
    "which colour is the digit ?",
)
NAME = "toy/mixed"


@pytest.fixture(scope="session")
def tiny():
    """(model, processor)"""
    return llava()


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    """Eight questions about four scenes."""
    found = []
    for scene in range(4):
        path = tmp_path / f"{scene}.png"
        pixels = np.random.default_rng(scene).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        for number in range(2):
            turns = (Turn("user", f"<image>\n{QUESTIONS[(scene + number) % 4]}"), Turn("assistant", "three"))
            found.append(
                Sample(f"{scene}-{number}", (path,), turns, task=f"t{number}", group=str(scene), where=f"toy:{scene}")
            )
    return found


@pytest.fixture
def toy(samples, monkeypatch) -> Benchmark:
    """The questions as a benchmark of the table."""
    benchmark = Benchmark(
        name=NAME, samples=lambda: samples, chance=0.1, metrics={"accuracy": accuracy},
        protocols={"official": Protocol(max_new_tokens=4), "short": Protocol(name="short", max_new_tokens=1)},
    )  # fmt: skip
    declare(monkeypatch, benchmark)
    return benchmark


def declare(monkeypatch, benchmark: Benchmark) -> None:
    """Puts a benchmark into the table that the runner reads, for one test."""
    monkeypatch.setattr(runner, "BENCHMARKS", {benchmark.name: benchmark})


def with_answer(sample: Sample, answer: str) -> Sample:
    return replace(sample, turns=(*sample.turns[:-1], Turn("assistant", answer)))


def place(run: Path) -> Path:
    """Where the toy benchmark's records stand."""
    return run / "evaluation" / "final" / "toy" / "mixed@official"
