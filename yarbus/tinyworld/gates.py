"""Whether this world can tell methods apart: ``python -m yarbus.tinyworld.gates`` writes ``files/gates.json``.

Everything is measured on validation scans and held-out phrasings, through the ordinary library. A gate that is not
met is recorded as unmet, with its figure; the base's card is written from this record.

(a) The frozen tower knows what it looks at: linear probes. (b) With the tower frozen every task is above chance, and
several stay below what the language model could do with perfect vision: there is something to win. (c) There is
something to lose: a tower tuned on one task alone beats the tower tuned on all, at equal numbers of that task's
questions (the same batch, so as many fewer steps as there are tasks). At the recipe's length a task alone has few
steps to learn from; the longer length was added after that figure was seen, and both are shown.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from yarbus.core.plugins import cache_folder
from yarbus.core.recipe import Recipe, load_recipe, variant
from yarbus.core.records import read_json, write_json, write_text
from yarbus.evaluation.runner import evaluate
from yarbus.methods.assemble import load_adapter
from yarbus.models.load import load_base
from yarbus.tinyworld import PLUGIN, TASKS
from yarbus.tinyworld.card import card
from yarbus.tinyworld.decoder import SlotReader, ceiling
from yarbus.tinyworld.export import questions_of, scenes_of
from yarbus.tinyworld.probes import nearest_neighbours_on_raw_scans, probe
from yarbus.tinyworld.tasks import TASKS as ALL_TASKS
from yarbus.training.stages import train

FILES = Path(__file__).parent / "files"
QUESTIONS = "file:tinyworld:validation/validation.json"
SEEDS = (0, 1)
SPECIALISTS = ("locate", "size", "lean")
"""Tasks on which a tower is also tuned alone."""
LONG_STEPS = 1750
"""The longer length of the mix: a task alone then gets about as many steps as the recipe has."""
LONG_SPECIALISTS = ("size", "lean")
"""Tasks tuned alone at that length."""

MIN_DIGIT_PROBE, MIN_COLOUR_PROBE = 0.90, 0.98
MIN_HEADROOM, MIN_TASKS_WITH_HEADROOM = 0.10, 4
MIN_CONFLICT, MIN_TASKS_IN_CONFLICT = 0.08, 2

Accuracy = Mapping[str, float]
"""Task -> fraction of validation questions answered right."""


def ceilings(base: LlavaForConditionalGeneration) -> dict[str, float]:
    """What the base's language model scores when it reads symbolic slots in place of a picture."""
    reader = SlotReader(seed=0).eval()
    reader.language_model.model.load_state_dict(base.model.language_model.state_dict())
    reader.language_model.lm_head.load_state_dict(base.lm_head.state_dict())
    scenes = scenes_of("validation")
    asked = [{question.task: question for question in questions_of("validation", scene)} for scene in scenes]
    return {task: ceiling(reader, scenes, [questions[task] for questions in asked]) for task in TASKS}


def accuracy_after(recipe: Recipe, align: Path, run: Path) -> dict[str, float]:
    """Trains one variant from its seed's common align stage, and asks it the validation questions."""
    train(recipe, run, stages=["instruct"], start=align / "adapter")
    model, processor = load_base(recipe.model.name)
    model, processor = load_adapter(model, processor, run / "adapter")
    scores = evaluate(model, processor, [QUESTIONS], run, batch=96)
    return {task: scores[QUESTIONS]["metrics"][task]["value"] for task in TASKS}


def specialist(recipe: Recipe, task: str) -> Recipe:
    """The recipe with questions of one task only, as many of them as the mix holds on average."""
    steps = recipe.stages["instruct"].steps
    assert steps is not None, "the shipped recipe counts steps"
    data = [{"source": "llava", "path": f"tinyworld:train/{task}.json"}]
    return load_recipe(
        recipe.resolved(), {"stages.instruct.data": data, "stages.instruct.steps": round(steps / len(TASKS))}
    )


def measure(work: Path) -> dict[str, Any]:
    """Every gate with its figures."""
    base = LlavaForConditionalGeneration.from_pretrained(FILES / "base", local_files_only=True).eval()
    probes, limits = probe(base), ceilings(base)
    frozen: list[dict[str, float]] = []
    full: list[dict[str, float]] = []
    full_long: list[dict[str, float]] = []
    alone: dict[str, list[float]] = {task: [] for task in SPECIALISTS}
    alone_long: dict[str, list[float]] = {task: [] for task in LONG_SPECIALISTS}
    for seed in SEEDS:
        recipe, folder = load_recipe("tinyworld", {"seed": seed}), work / f"seed{seed}"
        align = train(recipe, folder / "align", stages=["align"])
        frozen.append(accuracy_after(variant(recipe, "frozen"), align, folder / "frozen"))
        full.append(accuracy_after(variant(recipe, "full"), align, folder / "full"))
        for task in SPECIALISTS:
            only = specialist(variant(recipe, "full"), task)
            alone[task].append(accuracy_after(only, align, folder / f"only-{task}")[task])
        long = variant(load_recipe("tinyworld", {"seed": seed, "stages.instruct.steps": LONG_STEPS}), "full")
        full_long.append(accuracy_after(long, align, folder / "long-full"))
        for task in LONG_SPECIALISTS:
            only = specialist(long, task)
            alone_long[task].append(accuracy_after(only, align, folder / f"long-only-{task}")[task])
    return {
        "split": "validation",
        "steps": recipe.stages["instruct"].steps,
        "seeds": list(SEEDS),
        "a_probes": gate_a(probes, nearest_neighbours_on_raw_scans()),
        "b_headroom": gate_b(_mean(frozen), limits),
        "c_conflict": gate_c(_mean(full), {task: mean(values) for task, values in alone.items()}),
        "long_steps": LONG_STEPS,
        "c_conflict_long": gate_c(_mean(full_long), {task: mean(values) for task, values in alone_long.items()}),
        "by_seed": {
            "frozen": frozen,
            "full": full,
            "alone": alone,
            "full_long": full_long,
            "alone_long": alone_long,
        },
    }


def _mean(by_seed: list[dict[str, float]]) -> dict[str, float]:
    return {task: mean(accuracy[task] for accuracy in by_seed) for task in by_seed[0]}


def gate_a(probes: Mapping[str, float], nearest_neighbours: float) -> dict[str, Any]:
    """Linear probes of single held-out digits."""
    met = probes["digit"] >= MIN_DIGIT_PROBE and probes["colour"] >= MIN_COLOUR_PROBE
    return {"met": met, "probe": dict(probes), "nearest_neighbours_on_raw_scans": nearest_neighbours}


def gate_b(frozen: Accuracy, limits: Accuracy) -> dict[str, Any]:
    """Above chance everywhere, and well below perfect vision on several tasks."""
    above = {task: frozen[task] - ALL_TASKS[task].chance for task in frozen}
    headroom = {task: limits[task] - frozen[task] for task in frozen}
    with_room = [task for task, room in headroom.items() if room >= MIN_HEADROOM]
    return {
        "met": min(above.values()) > 0 and len(with_room) >= MIN_TASKS_WITH_HEADROOM,
        "frozen": dict(frozen),
        "ceiling": dict(limits),
        "chance": {task: ALL_TASKS[task].chance for task in frozen},
        "tasks_with_headroom": with_room,
    }


def gate_c(full: Accuracy, alone: Accuracy) -> dict[str, Any]:
    """Tuned on one task alone against tuned on all."""
    gain = {task: alone[task] - full[task] for task in alone}
    in_conflict = [task for task, value in gain.items() if value >= MIN_CONFLICT]
    return {
        "met": len(in_conflict) >= MIN_TASKS_IN_CONFLICT,
        "full_on_the_mix": {task: full[task] for task in alone},
        "full_on_the_task_alone": dict(alone),
        "tasks_in_conflict": in_conflict,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    work = cache_folder() / f"tinyworld-{PLUGIN.version}" / "gates"
    parser.add_argument("--work", type=Path, default=work, help="folder of the runs; finished ones are not repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gates = measure(arguments.work)
    write_json(FILES / "gates.json", gates)
    base = LlavaForConditionalGeneration.from_pretrained(FILES / "base", local_files_only=True)
    write_text(FILES / "base" / "README.md", card(read_json(FILES / "pretraining.json"), gates, base.num_parameters()))


if __name__ == "__main__":
    main()
