"""Whether there is something to learn in classification: ``python -m yarbus.tinyworld.classification_gates``.

Writes ``files/classification.json``, from validation pictures only; a gate that is not met is recorded as unmet.

(d) The pictures can be read: linear probes of the frozen tower. One that has ``seen`` train pictures of a kind bounds
what can be read from it; one that has seen ``usual`` large digits only says how far away the kind is. (e) The base is
no classifier: its replies as it ships (its projector has seen nothing yet) and after the shipped recipe with a frozen
tower, which asks no such question. Exactly right it should be rarely; and where pictures are strange it should fail to
*name* the digit too (have it among the words of its reply), for a reply of the wrong form is no want of eyesight.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from yarbus.core.plugins import cache_folder
from yarbus.core.recipe import load_recipe, variant
from yarbus.core.records import read_jsonl, write_json
from yarbus.evaluation.folder import benchmark_folder
from yarbus.evaluation.runner import evaluate
from yarbus.methods.assemble import load_adapter
from yarbus.models.load import load_base
from yarbus.tinyworld import CLASSIFICATION, PLUGIN
from yarbus.tinyworld.benchmarks import names_the_label
from yarbus.tinyworld.classification import large_digit
from yarbus.tinyworld.gates import FILES, SEEDS
from yarbus.tinyworld.probes import linear_probe, nearest_neighbours_on_raw_scans, pooled_features
from yarbus.tinyworld.scene import render
from yarbus.tinyworld.shifts import KINDS, NUM_PICTURES, picture
from yarbus.training.stages import train

USUAL = "usual"
NUM_TRAIN = 4000
"""Pictures that each probe is fitted on."""
NUM_HELD_OUT = {USUAL: 400, **dict.fromkeys(KINDS, NUM_PICTURES["validation"])}

MIN_USUAL_PROBE, MIN_SEEN_PROBE, MIN_FALL = 0.95, 0.80, 0.05
MAX_EXACT, MAX_NAMED_STRANGE = 0.30, 0.90
"""Bounds of both gates, set after a first look at their figures: they guard this world, they did not predict it."""

Accuracy = Mapping[str, float]
"""Kind of picture, or task -> fraction read right."""


def pictures_of(kind: str, split: str, numbers: Iterable[int]) -> list[np.ndarray]:
    """Validation's kind of strange pictures, in train of train scans (but the same typefaces), or usual ones."""
    if kind == USUAL:
        return [render(large_digit(split, number)) for number in numbers]
    return [picture(kind, number, style="validation", scans=split) for number in numbers]


def probes(
    base: LlavaForConditionalGeneration, num_train: int = NUM_TRAIN
) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out accuracy on every kind of picture of the probe that has seen the kind, and of the usual one."""
    seen, usual = {}, {}
    features = pooled_features(base, pictures_of(USUAL, "train", range(num_train)))
    labels = [number % 10 for number in range(num_train)]
    usual_probe = linear_probe().fit(features, labels)
    for kind, count in NUM_HELD_OUT.items():
        held_out = pooled_features(base, pictures_of(kind, "validation", range(count)))
        wanted = [number % 10 for number in range(count)]
        usual[kind] = float(usual_probe.score(held_out, wanted))
        if kind != USUAL:
            of_kind = pooled_features(base, pictures_of(kind, "train", range(num_train)))
            seen[kind] = float(linear_probe().fit(of_kind, labels).score(held_out, wanted))
    return seen, usual


def replies_right(model: Any, processor: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Task -> fraction of validation questions answered right, and of those whose reply names the right digit."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark in CLASSIFICATION:
        name = f"file:tinyworld:validation/{benchmark}.json"
        evaluate(model, processor, [name], folder, batch=96)
        for row in read_jsonl(benchmark_folder(folder, name, "official", "final") / "replies.jsonl"):
            by_task[row["task"]].append(row)
    return {
        task: {
            "exact": sum(row["is_correct"] for row in rows) / len(rows),
            "names": sum(names_the_label(row["reply"], row["answer"]) for row in rows) / len(rows),
        }
        for task, rows in by_task.items()
    }


def zero_shot(work: Path, seed: int) -> dict[str, dict[str, float]]:
    """Of the base after both stages of the shipped recipe, tower frozen."""
    recipe, folder = load_recipe("tinyworld", {"seed": seed}), work / f"seed{seed}"
    align = train(recipe, folder / "align", stages=["align"])
    train(variant(recipe, "frozen"), folder / "frozen", stages=["instruct"], start=align / "adapter")
    model, processor = load_adapter(*load_base(recipe.model.name), folder / "frozen" / "adapter")
    return replies_right(model, processor, folder / "frozen")


def gate_d(seen: Accuracy, usual: Accuracy, nearest_neighbours: float) -> dict[str, Any]:
    """Everything can be read by who has seen the like, and strange pictures are farther away."""
    fall = {kind: seen[kind] - usual[kind] for kind in seen}
    return {
        "met": usual[USUAL] >= MIN_USUAL_PROBE
        and min(seen.values()) >= MIN_SEEN_PROBE
        and max(fall.values()) >= MIN_FALL,
        "usual_probe": dict(usual),
        "seen_probe": dict(seen),
        "kinds_that_are_far": [kind for kind, value in fall.items() if value >= MIN_FALL],
        "nearest_neighbours_on_raw_scans": nearest_neighbours,
    }


def gate_e(trained: Mapping[str, Accuracy], shipped: Mapping[str, Accuracy]) -> dict[str, Any]:
    """Neither base answers exactly, by task; and the trained one does not see all that is strange."""
    best = max(given["exact"] for replies in (trained, shipped) for given in replies.values())
    named = mean(trained[kind]["names"] for kind in KINDS)
    return {
        "met": best <= MAX_EXACT and named <= MAX_NAMED_STRANGE,
        "after_the_recipe": dict(trained),
        "as_shipped": dict(shipped),
    }


def measure(work: Path) -> dict[str, Any]:
    """Both gates with their figures."""
    base, processor = load_base("tinyworld:base")
    seen, usual = probes(base)
    by_seed = [zero_shot(work, seed) for seed in SEEDS]
    trained = {
        task: {way: mean(found[task][way] for found in by_seed) for way in ways} for task, ways in by_seed[0].items()
    }
    return {
        "command": "python -m yarbus.tinyworld.classification_gates",
        "split": "validation",
        "seeds": list(SEEDS),
        "d_probes": gate_d(seen, usual, nearest_neighbours_on_raw_scans()),
        "e_zero_shot": gate_e(trained, replies_right(base, processor, work / "as-shipped")),
        "by_seed": by_seed,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    work = cache_folder() / f"tinyworld-{PLUGIN.version}" / "classification-gates"
    parser.add_argument("--work", type=Path, default=work, help="folder of the runs; finished ones are not repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_json(FILES / "classification.json", measure(arguments.work))


if __name__ == "__main__":
    main()
