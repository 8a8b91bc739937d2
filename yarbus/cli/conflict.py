"""``yarbus conflict``: do a recipe's tasks pull the vision tower apart, and what to do about it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yarbus.cli.options import Json, Overrides, RecipeArgument, Threads, print_json, quieten
from yarbus.core.errors import ConfigError


def conflict(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A trained run of it: adds contexts, routing, gaze, swapped questions, gradient agreement."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of the short runs that measure what sharing the tower costs; none if left out."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Seeds of each short run.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Rows per task for the gradients.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Rows per gradient.")] = 16,
    stage: Annotated[str | None, typer.Option(help="The stage in question; the last if left out.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Adapter the stage begins from, or 'base'; the stages before are trained if left out."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the study goes; conflicts/NAME if left out.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Short runs at a time; they share out the cores.")] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Measure whether the tasks of a recipe conflict in the vision tower, and get advice: freeze, tune or condition."""
    from yarbus.core.recipe import load_recipe
    from yarbus.core.records import read_record

    if (Path(recipe) / "recipe.yaml").is_file():
        raise ConfigError(
            "a run is no recipe", where=recipe, fix=f"yarbus conflict {recipe}/recipe.yaml --run {recipe}"
        )
    chosen = load_recipe(recipe, overrides or [])
    quieten(threads)
    from yarbus.studies.conflict import RECORD
    from yarbus.studies.conflict import conflict as measure

    where = measure(
        chosen, run=run, start=start, stage=stage, samples=samples, batch=batch, steps=steps, seeds=seeds,
        folder=folder, jobs=jobs, progress=not json, command=shlex.join(["yarbus", *sys.argv[1:]]),
    )  # fmt: skip
    record = read_record(where / RECORD)
    if json:
        print_json(record)
        return
    from yarbus.report.tables import conflict_table

    Console().print(conflict_table(record))
    print(f"\nReport: {os.path.relpath(where / 'report' / 'index.html')}")
