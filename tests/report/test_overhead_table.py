"""The record of overheads as it is printed, holes included."""

import pytest
from rich.console import Console

from yarbus.report.overhead_table import conditions, overhead_table


def measured(value, spread=0.1):
    return {"value": value, "low": value - spread, "high": value + spread}


def variant(name, **more):
    step = {
        "seconds": measured(0.4), "times": {"frozen": measured(2.0)}, "rows": None,
        "parts": {part: measured(0.1, 0.01) for part in ("forward", "backward", "update", "other")},
    }  # fmt: skip
    parts = ("text_encoder", "tower", "projector", "prefill", "decode", "other")
    answer = {
        "seconds": {"value": 0.0123, "low": None, "high": None}, "times": {"frozen": measured(1.25)}, "processor": None,
        "parts": {part: None if part == "text_encoder" else measured(0.002, 0.0) for part in parts},
        "token": measured(0.00321, 0.0),
    }  # fmt: skip
    size = {"bytes": 3 * 2**30, "times": {"frozen": 1.5}}
    sizes = {"rows": 4.0, "tokens": 49.5, "answer_tokens": 3.0, "pixel_values": [4, 3, 28, 28]}
    turn = {
        "device": {"type": "cpu", "name": ""}, "load": 0.5, "batch": {**sizes, "micro_batches": 2},
        "prompt": {**sizes, "rows": 1.0, "answer_tokens": None, "precision": "float32"},
    }  # fmt: skip
    return {
        "trained": 1_060_000, "batch": 8, "precision": "float32", "step": step, "answer": answer, "kept": size,
        "training": size, "answering": size, "failed": {}, "turns": {"0": turn, "1": turn}, **more,
    }  # fmt: skip


def record(**variants):
    return {
        "references": ["frozen"], "variants": {name: variant(name, **more) for name, more in variants.items()},
        "order": [["frozen", "full"], ["full", "frozen"]], "threads": 1, "random_weights": False,
        "protocol": {"rounds": 2, "warmup": 2, "steps": 5, "answers": 5, "new_tokens": 16, "clock": "wall"},
        "machine": {"machine": {"cpus": 2}},
    }  # fmt: skip


@pytest.fixture
def printed():
    def show(given):
        console = Console(width=120, soft_wrap=True)
        with console.capture() as capture:
            console.print(overhead_table(given))
        return " ".join(capture.get().split())

    return show


def test_steps_and_answers_stand_with_their_intervals_ratios_and_memory(printed):
    words = printed(record(frozen={}, full={}))
    for expected in (
        "1.06 M 400 2.00 100 100 100 3.0 GiB 3.0 GiB", "300–500 1.90–2.10", "× 1.50", "An answer of 16 tokens",
        "full 12.3 1.25 – 2.00 2.00 2.00 3.21 3.0 GiB",
    ):  # fmt: skip
        assert expected in words
    assert "a CPU with 1 thread, the recipe's own rows" in words
    assert "A step, float32: 2 forwards of 4 rows of 50 tokens (3 of them answer), pixels 4 x 3 x 28 x 28." in words
    assert "2 rounds of 5 steps and 5 answers after 2 to warm up" in words and "rough" not in words


def test_a_variant_that_failed_has_dashes_and_its_reason(printed):
    nothing = {"step": None, "answer": None, "kept": None, "training": None, "answering": None}
    why = {"training": "out of memory: no room"}
    words = printed(record(frozen={}, full={**nothing, "failed": why, "turns": {"0": {"failed": why, "bytes": {}}}}))
    assert "full 1.06 M – – – – – –" in words and "full, training: out of memory: no room." in words
    alone = record(frozen={**nothing, "failed": why, "turns": {"0": {"failed": why, "bytes": {}}}})
    assert "Measured, the recipe's own rows." in printed({**alone, "machine": None})


def test_a_shared_machine_and_another_clock_are_told():
    given = record(frozen={})
    given["variants"]["frozen"]["turns"]["1"]["load"] = 7.5
    given["protocol"]["clock"] = "processor"
    lines = " ".join(conditions(given))
    assert "load 7.5 on 2 cores" in lines and "Seconds of processor time." in lines
