"""``yarbus compare``: which way of tuning is better, by how much, and for what price."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yarbus.cli.options import (
    HeadVariants,
    Json,
    LanguageVariants,
    Overrides,
    ProjectorVariants,
    RecipeArgument,
    VisionVariants,
    named_variants,
    print_json,
)
from yarbus.core.errors import ConfigError

if TYPE_CHECKING:
    from yarbus.core.recipe import Recipe


def compare(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    vision: VisionVariants = None,
    projector: ProjectorVariants = None,
    language: LanguageVariants = None,
    head: HeadVariants = None,
    variants: Annotated[
        str | None, typer.Option(help="Variants of the recipe, a,b; all of its own if nothing is named.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds per variant.")] = 1,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; they share out the cores.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the runs go; comparisons/NAME if left out.")] = None,
    diagnose: Annotated[bool, typer.Option("--diagnose", help="Look into each run: contexts, routing, gaze.")] = False,
    json: Json = False,
) -> None:
    """Train and evaluate variants that differ in one thing, and say which is better, how surely, and at what cost."""
    from yarbus.core.recipe import load_recipe
    from yarbus.core.records import read_record

    chosen = load_recipe(recipe, overrides or [])
    places = {"vision": vision, "projector": projector, "language": language, "head": head}
    if chosen.compare is None and all(text is None for text in places.values()):
        fix = "name methods, such as --vision frozen,full, or write compare.variants into the recipe"
        raise ConfigError("nothing to compare", why="the recipe names no variants", fix=fix)
    wanted = named_variants(chosen, places, variants)
    from yarbus.studies.compare import RECORD
    from yarbus.studies.compare import compare as run_all

    folder = folder or Path("comparisons") / (chosen.name or "comparison")
    if not json:
        shown = list(wanted) if wanted is not None else list(chosen.compare.variants if chosen.compare else ())
        _announce(chosen, shown, seeds, folder)
    where = run_all(
        chosen, wanted, seeds=seeds, folder=folder, jobs=jobs, progress=not json,
        command=shlex.join(["yarbus", *sys.argv[1:]]), diagnose={} if diagnose else None,
    )  # fmt: skip
    if json:
        print_json(read_record(where / RECORD))
        return
    from yarbus.report.runs import read_comparison
    from yarbus.report.summary import summarise
    from yarbus.report.tables import comparison_table

    found = read_comparison(where)
    Console().print(comparison_table(found, summarise(found)))
    print(f"\nReport: {os.path.relpath(where / 'report' / 'index.html')}")


def _announce(recipe: "Recipe", variants: list[str], seeds: int, folder: Path) -> None:
    runs = len(variants) * seeds
    print(f"{recipe.name}: {', '.join(variants)}; {runs} {'run' if runs == 1 else 'runs'}, in {folder}", flush=True)
