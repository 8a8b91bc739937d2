"""The first study, resumable: ``make study`` runs it, and commits each finished part under ``results/study``.

Parts, in order: learning rates chosen on the validation split (``rates.json``); the comparison of variants at those
rates (``digest.json``, ``report/``); what diagnoses saw in its runs (``analysis/``). Runs live in ``comparisons/study``
and are never committed; what was not run is listed in the digest as not run.
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.records import read_record, write_json

HERE = Path(__file__).parent / "study"
WORK = Path("comparisons") / "study"
VALIDATION = "file:tinyworld:validation/validation.json"
SELECTION_STEPS = 300
EYES, LANGUAGE = (2.5e-4, 5e-4), (5e-4, 1e-3)
"""Rates that each variant tries: of the eyes, or of the language model and projector where the eyes are frozen."""
ROUTER = {"covft-dense-plain": 1.0, "covft-dense-fast-router": 4.0}
"""Rate of the router relative to the eyes'; for all others ``SLOW``. Four times was the quickstart's: the softmax then
saturates within 300 steps, each block sends every image to one expert, and its gradient vanishes."""
SLOW = 0.5
SEEDS = 3
CHECKPOINTS = (300,)
COMMAND = "make study"
DIAGNOSIS = {"samples": 1000, "questions": 240}


def candidates(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Two rates for each variant."""
    assert recipe.compare is not None
    short = {"stages.instruct.steps": SELECTION_STEPS, "record": {}, "stages.instruct.checkpoint_every": None}
    rate = "stages.instruct.learning_rate"
    found: dict[str, list[dict[str, Any]]] = {}
    for name in recipe.compare.variants:
        if name == "frozen":
            found[name] = [short | {f"{rate}.{group}": one for group in ("projector", "language")} for one in LANGUAGE]
            continue
        found[name] = []
        for one in EYES:
            eyes = {f"{rate}.{group}": one for group in ("vision", "vision_new")}
            found[name].append(short | eyes | {f"{rate}.router": one * ROUTER.get(name, SLOW)})
    return found


def chosen_variants(recipe: Recipe, rates: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe's variants with the rates that were chosen for each."""
    assert recipe.compare is not None
    return {
        name: {
            **changes,
            **{key: value for key, value in rates["variants"][name]["chosen"].items() if "learning_rate" in key},
        }
        for name, changes in recipe.compare.variants.items()
    }


def commit(what: str, wanted: bool) -> None:
    """Commits what lies under ``results/study``, and nothing else."""
    if not wanted:
        return
    subprocess.run(["git", "add", str(HERE)], check=True)
    if subprocess.run(["git", "diff", "--cached", "--quiet", "--", str(HERE)]).returncode:
        subprocess.run(["git", "commit", "--only", "-q", "-m", what, "--", str(HERE)], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time, one thread each")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    parser.add_argument("--only-runs", action="store_true", help="train and evaluate, no diagnoses")
    parser.add_argument("--no-commit", action="store_true", help="leave results/study uncommitted")
    arguments = parser.parse_args()
    from yarbus.studies.compare import compare
    from yarbus.studies.rates import choose_rates

    recipe = load_recipe(HERE / "recipe.yaml")
    rates_file = HERE / "rates.json"
    if not rates_file.is_file():
        record = choose_rates(
            recipe, candidates(recipe), benchmarks=[VALIDATION], folder=arguments.work / "rates", jobs=arguments.jobs,
            command=COMMAND,
        )  # fmt: skip
        write_json(rates_file, record)
        commit("Choose the study's learning rates on the validation split", not arguments.no_commit)
    rates = read_record(rates_file)
    compare(
        recipe, chosen_variants(recipe, rates), seeds=SEEDS, folder=arguments.work / "runs", jobs=arguments.jobs,
        command=COMMAND, checkpoints=CHECKPOINTS, diagnose=None if arguments.only_runs else DIAGNOSIS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
