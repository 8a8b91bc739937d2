"""``yarbus train``: a recipe's stages in order."""

from pathlib import Path
from typing import Annotated

import typer

from yarbus.cli.options import Json, Overrides, RecipeArgument, Threads, print_json, quieten


def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME of the recipe if left out.")] = None,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint folder of this run.")] = "auto",
    start: Annotated[Path | None, typer.Option(help="Adapter folder that the first stage begins from.")] = None,
    stages: Annotated[str | None, typer.Option(help="Only these stages, a,b.")] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Train a recipe, or go on where an interrupted run stopped."""
    from yarbus.cli.options import names
    from yarbus.core.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    folder = run or Path("runs") / (chosen.name or "run")
    quieten(threads)
    from yarbus.training.stages import train as train_stages

    where = resume if resume in ("auto", "never") else Path(resume)
    train_stages(chosen, folder, resume=where, start=start, stages=names(stages), progress=not json)  # type: ignore[arg-type]
    if json:
        print_json({"run": str(folder), "adapter": str(folder / "adapter")})
    else:
        print(f"run: {folder}")
