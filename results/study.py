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
FACTORS = (0.5, 1.0, 2.0)
"""Of the rates in the recipe: what each variant tries, as many for each."""
SEEDS = 3
CHECKPOINTS = (300, 600)
COMMAND = "make study"
BASE_RATE, BASE_ROUTER, BASE_LANGUAGE = 5e-4, 2e-3, 1e-3


def candidates(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Three rates for each variant: of the eyes, or of the language model where the eyes are frozen."""
    assert recipe.compare is not None
    short = {"stages.instruct.steps": SELECTION_STEPS, "record": {}, "stages.instruct.checkpoint_every": None}
    rate = "stages.instruct.learning_rate"
    found: dict[str, list[dict[str, Any]]] = {}
    for name in recipe.compare.variants:
        found[name] = []
        for factor in FACTORS:
            if name == "frozen":
                changes = {f"{rate}.{group}": BASE_LANGUAGE * factor for group in ("projector", "language")}
            else:
                # Without jitter the control also has no rate of its own for the router.
                router = BASE_RATE if name.endswith("-plain") else BASE_ROUTER
                changes = {f"{rate}.{group}": BASE_RATE * factor for group in ("vision", "vision_new")}
                changes[f"{rate}.router"] = router * factor
            found[name].append(short | changes)
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
        command=COMMAND, checkpoints=CHECKPOINTS, diagnose=not arguments.only_runs,
    )  # fmt: skip


if __name__ == "__main__":
    main()
