"""Is the advice right? Mixtures whose answer is measured beforehand: ``python results/mixtures.py``.

The answer is the *specialist gap*: validation accuracy of ``full`` on a task alone minus ``full`` on the mixture, at
equal questions of the task; the mixture's gap is that of its worst-off task. The advice comes from short runs on other
seeds and their loss on training rows kept out, never from these accuracies. Thresholds of the advice were set on the
calibration mixtures. On the mixture with the largest gap the methods are then compared (``uneven.json``).
Goes on where it was interrupted; writes ``results/mixtures/mixtures.json``.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from yarbus.core.plugins import resolve
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import environment, make_folder, read_record, write_json, write_text

HERE = Path(__file__).parent / "mixtures"
WORK = Path("comparisons") / "mixtures"
VALIDATION = "file:tinyworld:validation/validation.json"
RATE = 2e-3
"""Of the vision tower: high enough that tasks can hurt each other here."""
STEPS = 200
PROBE_SEED = 20
ROUTER_RATE = 2.5e-4
ROUTING_RECORD = {"routing": {"every": 50, "samples": 64}}
CURE_SEEDS = 2
COMMAND = "python results/mixtures.py"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Tasks with the fraction of their rows that is used."""

    name: str
    parts: tuple[tuple[str, float], ...]
    use: str
    """``known``: the advice is checked on it; ``calibration``: its thresholds were set on it."""
    seeds: tuple[int, ...] = (0, 1)
    probe_steps: int = STEPS
    """Length of the short runs that the advice is made from."""


MIXTURES = (
    Mixture(name="read twice", parts=(("read-a", 1.0), ("read-b", 1.0)), use="known"),
    Mixture(name="read and caption", parts=(("read", 1.0), ("caption", 1.0)), use="known"),
    Mixture(name="read and size, 1 to 7", parts=(("read", 1 / 7), ("size", 1.0)), use="known"),
    Mixture(
        name="locate and lean", parts=(("locate", 1.0), ("lean", 1.0)), use="calibration", seeds=(0,), probe_steps=100
    ),
    Mixture(
        name="read and lean, 1 to 7",
        parts=(("read", 1 / 7), ("lean", 1.0)),
        use="calibration",
        seeds=(0,),
        probe_steps=100,
    ),
)


def halves(work: Path) -> None:
    """The rows of ``read`` as two tasks of their own names, every other row each."""
    source = Path(resolve("tinyworld:train/read.json"))
    make_folder(work)
    rows = json.loads(source.read_text())
    for word, part in (("a", rows[::2]), ("b", rows[1::2])):
        text = json.dumps([{**row, "task": f"read-{word}"} for row in part])
        if not (work / f"read-{word}.json").is_file():
            write_text(work / f"read-{word}.json", text)


def recipe_of(parts: Iterable[tuple[str, float]], steps: int, seed: int, work: Path) -> Recipe:
    """The world's recipe on these tasks, the tower tuned at this study's rate."""
    data = []
    for task, fraction in parts:
        own = work / f"{task}.json"
        path = str(own) if own.is_file() else f"tinyworld:train/{task}.json"
        images = {"images": "tinyworld:train"} if own.is_file() else {}
        data.append({"source": "llava", "path": path, "fraction": fraction, **images})
    changes = {
        "seed": seed,
        "compare": None,
        "evaluation": [VALIDATION],
        "stages.instruct.data": data,
        "stages.instruct.steps": steps,
        "stages.instruct.learning_rate.vision": RATE,
        "stages.instruct.checkpoint_every": None,
    }
    return load_recipe("tinyworld", changes)


def accuracy(recipe: Recipe, run: Path, align: Path) -> dict[str, float]:
    """Validation accuracy by task after one run."""
    from yarbus.evaluation.runner import evaluate
    from yarbus.training.run import load_run
    from yarbus.training.stages import train

    train(recipe, run, stages=["instruct"], start=align / "adapter", progress=False)
    model, processor = load_run(run)
    metrics = evaluate(model, processor, [VALIDATION], run, batch=96, progress=False)[VALIDATION]["metrics"]
    return {task: metric["value"] for task, metric in metrics.items()}


def truth(mixture: Mixture, work: Path) -> dict[str, Any]:
    """The specialist gap by task and seed."""
    from yarbus.training.stages import train

    total = sum(fraction for _, fraction in mixture.parts)
    gaps: dict[str, list[dict[str, float]]] = {task: [] for task, _ in mixture.parts}
    for seed in mixture.seeds:
        align = train(
            load_recipe("tinyworld", {"seed": seed}), work / f"align-{seed}", stages=["align"], progress=False
        )
        place = work / "truth" / _word(mixture.name) / f"seed{seed}"
        mixed = accuracy(recipe_of(mixture.parts, STEPS, seed, work), place / "mix", align)
        for task, fraction in mixture.parts:
            steps = max(1, round(STEPS * fraction / total))
            alone = accuracy(recipe_of([(task, fraction)], steps, seed, work), place / task, align)
            asked = task.split("-")[0]
            gaps[task].append({"alone": alone[asked], "mix": mixed[asked], "gap": alone[asked] - mixed[asked]})
    worst = max(mean(line["gap"] for line in lines) for lines in gaps.values())
    return {"steps": STEPS, "seeds": list(mixture.seeds), "tasks": gaps, "gap": worst}


def advice(mixture: Mixture, work: Path) -> dict[str, Any]:
    """What ``yarbus conflict`` says of the mixture."""
    from yarbus.studies.conflict import conflict

    word = _word(mixture.name)
    recipe = load_recipe(recipe_of(mixture.parts, STEPS, PROBE_SEED, work).resolved() | {"name": word})
    folder = conflict(
        recipe, steps=mixture.probe_steps, folder=work / "conflict" / word, jobs=1, progress=False, command=COMMAND
    )
    record = read_record(folder / "conflict.json")
    drift = record["drift"]["overall"]
    return {
        "seed": PROBE_SEED,
        "steps": mixture.probe_steps,
        "gradients": record["gradients"]["overall"],
        "pull": record["gradients"]["by_task"],
        "drift": drift,
        "gap": record["gap"]["tasks"],
        **{key: record["advice"][key] for key in ("verdict", "action", "headline", "sureness", "blocks")},
    }


def cure(work: Path) -> dict[str, Any]:
    """On the mixture with the largest gap: do experts, routed or not, keep the task that ``full`` loses?

    Every variant at this study's rate of the eyes; the router at the rate at which its entropy stays.
    """
    from yarbus.report.digest import digest_of
    from yarbus.report.runs import read_comparison
    from yarbus.report.summary import contrasts_between
    from yarbus.studies.compare import compare

    recipe = recipe_of(MIXTURES[2].parts, STEPS, 0, work)
    rates = {"vision": RATE, "vision_new": RATE, "router": ROUTER_RATE, "projector": 1e-3, "language": 1e-3}
    values = recipe.resolved()
    values["stages"]["instruct"]["learning_rate"] = rates
    values |= {"name": "uneven", "evaluation": ["tinyworld/read", "tinyworld/size"], "record": ROUTING_RECORD}
    place = "stages.instruct.train.vision"
    routed = {"method": "covft", "num_experts": 4, "context_dim": 64, "expert_jitter": 1e-2}
    variants: dict[str, dict[str, Any]] = {
        "frozen": {place: "frozen"},
        "full": {place: "full"},
        "covft-dense": {place: {**routed, "routing": "dense", "context": "cve"}},
        "uniform": {place: {**routed, "routing": "uniform"}},
        "one-expert": {place: {"method": "covft", "num_experts": 1}},
    }
    folder = compare(
        load_recipe(values), variants, seeds=CURE_SEEDS, folder=work / "uneven", jobs=1, progress=False, command=COMMAND
    )
    comparison = read_comparison(folder)
    pairs = (
        ("uniform", "covft-dense"),
        ("one-expert", "covft-dense"),
        ("full", "uniform"),
    )
    found = [asdict(one) for one in contrasts_between(comparison, pairs)]
    routing = {run.folder.name: lines[-1] for run in comparison.runs for lines in run.routing.values() if lines}
    return {**digest_of(comparison), "contrasts": found, "routing_at_the_end": routing}


def _word(text: str) -> str:
    return text.replace(", ", "-").replace(" ", "-")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs; finished ones are not repeated")
    parser.add_argument("--use", choices=("known", "calibration", "cure"), default=None, help="only this part")
    arguments = parser.parse_args()

    from yarbus.cli.options import quieten

    quieten(1)
    halves(arguments.work)
    path = HERE / "mixtures.json"
    record: dict[str, Any] = read_record(path) if path.is_file() else {"mixtures": {}}
    record |= {"command": COMMAND, "rate": RATE, "environment": environment()}
    make_folder(HERE)
    for mixture in MIXTURES:
        if arguments.use in (None, mixture.use):
            entry = {"use": mixture.use, "parts": dict(mixture.parts)}
            entry["advice"] = advice(mixture, arguments.work)
            entry["truth"] = truth(mixture, arguments.work)
            record["mixtures"][mixture.name] = entry
            write_json(path, record)
    if arguments.use in (None, "cure"):
        write_json(HERE / "uneven.json", cure(arguments.work))


if __name__ == "__main__":
    main()
