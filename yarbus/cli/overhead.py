"""``yarbus overhead``: what each way of tuning costs in time and memory, against a frozen and a full tower."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yarbus.cli.options import (
    HeadVariants,
    Json,
    LanguageVariants,
    Overrides,
    ProjectorVariants,
    RecipeArgument,
    Threads,
    VisionVariants,
    named_variants,
    print_json,
)

WIDTH = 100
"""Columns that the tables take at most; a narrower terminal wraps its lines, as cut figures would be wrong ones."""


def overhead(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    vision: VisionVariants = None,
    projector: ProjectorVariants = None,
    language: LanguageVariants = None,
    head: HeadVariants = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="Variants of the recipe, a,b; if nothing is named all of its own, else frozen, full and what it says."
        ),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Draw weights from the recipe's config and make rows up: no download, no data."
        ),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each variant, each in a process of its own.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a turn.")] = 5,
    answers: Annotated[int, typer.Option(min=1, help="Answers of a turn, to one question at a time.")] = 5,
    warmup: Annotated[int, typer.Option(min=1, help="Steps, and answers, of a turn before these.")] = 2,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 16,
    clock: Annotated[
        str, typer.Option(help="wall, or processor: the process's own share of the cores, steadier beside other work.")
    ] = "wall",
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Made-up rows: tokens; the stage's max_tokens if left out, else 2048.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Made-up rows: supervised tokens; all but the picture's if left out.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Made-up rows: pictures of a row; 1 if left out.")] = None,
    side: Annotated[
        int | None, typer.Option(min=1, help="Made-up rows: side of a picture in pixels where any will do.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the record goes; overheads/NAME if left out.")] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Measure what variants of a recipe cost: a training step, an answer, and the memory of both."""
    from yarbus.core.recipe import load_recipe
    from yarbus.core.records import read_record

    chosen = load_recipe(recipe, overrides or [])
    places = {"vision": vision, "projector": projector, "language": language, "head": head}
    wanted = named_variants(chosen, places, variants)
    from yarbus.studies.overhead import RECORD
    from yarbus.studies.overhead import overhead as measure

    where = measure(
        chosen, wanted, rounds=rounds, steps=steps, answers=answers, warmup=warmup, new_tokens=new_tokens,
        clock=clock, random_weights=random_weights, tokens=tokens, answer_tokens=answer_tokens, images=images,
        side=side, threads=threads, folder=folder, progress=not json, command=shlex.join(["yarbus", *sys.argv[1:]]),
    )  # fmt: skip
    record = read_record(where / RECORD)
    if json:
        print_json(record)
        return
    from yarbus.report.overhead_table import overhead_table

    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(overhead_table(record))
    print(f"\nRecord: {where / RECORD}")
