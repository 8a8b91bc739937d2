"""``yarbus quickstart``: the whole job on the embedded world."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from yarbus.cli.options import Json, names
from yarbus.core.errors import ConfigError, DataError

RECIPE = "tinyworld"
DIAGNOSIS = {"samples": 490, "questions": 40}
GRADIENT_ROWS = 96
"""Rows per task: less than ``yarbus conflict`` takes, so that all of this fits into a few minutes."""


def quickstart(
    variants: Annotated[
        str | None, typer.Option(help="Variants to compare, a,b; all of the recipe's if left out.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per variant.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of the last stage.")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe that names the variants.")] = RECIPE,
    folder: Annotated[Path | None, typer.Option(help="Where the runs go.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; they share out the cores.")] = None,
    json: Json = False,
) -> None:
    """Train, evaluate, compare and diagnose ways to tune a vision tower, on pictures that come with the package."""
    from yarbus.core.recipe import load_recipe

    chosen = load_recipe(recipe)
    if chosen.compare is None:
        raise ConfigError("the recipe names no variants", where=recipe, fix="choose one with compare.variants")
    last = list(chosen.stages)[-1]
    overrides = [] if steps is None else [f"stages.{last}.steps={steps}"]
    chosen = load_recipe(recipe, overrides)
    if folder is None:
        # Another number of steps is another experiment, and must not be mixed with the default one.
        folder = Path("comparisons") / ("quickstart" if steps is None else f"quickstart-{steps}-steps")
    began = time.monotonic()
    if not json:
        _announce(chosen, names(variants), seeds, folder)
    from yarbus.cli.report import show
    from yarbus.studies.compare import compare

    command = shlex.join(["yarbus", *sys.argv[1:]])
    compare(
        chosen, names(variants), seeds=seeds, folder=folder, jobs=jobs, progress=not json, command=command,
        diagnose=DIAGNOSIS,
    )  # fmt: skip
    advice = _diagnose(chosen, folder, command, progress=not json)
    show([folder], json)
    if not json:
        if advice:
            print(f"\nDo the tasks conflict in the tower? {advice}")
        page = folder / "report" / "index.html"
        print(f"\n{time.monotonic() - began:.0f} s in all. Report: {os.path.relpath(page)}")


def _diagnose(recipe, folder: Path, command: str, progress: bool) -> str | None:  # type: ignore[no-untyped-def]
    """Do the tasks conflict? Data without tasks still make a comparison: that part is then left out, and said so."""
    from yarbus.core.records import read_record
    from yarbus.studies.conflict import RECORD, conflict

    try:
        conflict(recipe, folder=folder, samples=GRADIENT_ROWS, progress=progress, command=command)
    except DataError as error:
        print(f"no diagnosis of conflict: {error}", file=sys.stderr)
        return None
    return read_record(folder / RECORD)["advice"]["headline"]


def _announce(recipe, variants: list[str] | None, seeds: int, folder: Path) -> None:  # type: ignore[no-untyped-def]
    shown = variants or list(recipe.compare.variants)
    last = list(recipe.stages)[-1]
    runs = len(shown) * seeds
    stage = recipe.stages[last]
    length = f"{stage.num_steps} steps" if stage.num_steps else f"{stage.epochs:g} epochs"
    print(
        f"{recipe.name}: {', '.join(shown)}; {length} of {stage.batch}, {runs} {'run' if runs == 1 else 'runs'}, "
        f"in {folder}",
        flush=True,
    )
