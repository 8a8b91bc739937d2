"""``yarbus evaluate``: benchmarks on a run, a model folder or a hub id."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Threads, names, print_json, quieten
from yarbus.core.errors import ConfigError


def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder, a model folder, or a hub id.", metavar="RUN")],
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="Benchmarks, a,b; file:PATH, classes:PATH, dataset:PATH read your own. The recipe's if left out."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="How to ask and judge.")] = "official",
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time.")] = 32,
    output: Annotated[
        Path | None, typer.Option(help="Where replies and scores go; the run's folder if left out.")
    ] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Ask a trained model the questions of benchmarks, and score every reply."""
    from yarbus.core.recipe import load_recipe
    from yarbus.core.records import make_folder

    folder = output or Path(run)
    chosen = names(benchmarks)
    if chosen is None:
        if not (Path(run) / "recipe.yaml").is_file():
            raise ConfigError("no benchmarks named", where=run, fix="pass --benchmarks a,b (yarbus list benchmarks)")
        chosen = load_recipe(Path(run) / "recipe.yaml").evaluation
    if not chosen:
        raise ConfigError("the recipe names no benchmarks", where=run, fix="pass --benchmarks a,b")
    if output is None and not Path(run).is_dir():
        folder = Path("runs") / run.replace("/", "--")
    quieten(threads)
    from yarbus.evaluation.runner import evaluate as ask
    from yarbus.evaluation.runner import load_benchmark
    from yarbus.training.run import load_run

    for name in chosen:  # a wrong name or file is told before a model is loaded
        load_benchmark(name).protocol(protocol)
    if output is not None:
        make_folder(output)
    model, processor = load_run(run)
    scores = ask(model, processor, chosen, folder, protocol=protocol, batch=batch, progress=not json)
    if json:
        print_json(scores)
        return
    table = Table(title="Accuracy in percent (95 % interval)", title_justify="left", box=None, pad_edge=False)
    for column in ("benchmark", "metric", "score", "interval", "chance", "questions"):
        table.add_column(column, justify="left" if column in ("benchmark", "metric") else "right")
    for name, record in scores.items():
        for metric, found in record["metrics"].items():
            chance = "" if found["chance"] is None else f"{100 * found['chance']:.1f}"
            interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
            table.add_row(name, metric, f"{100 * found['value']:.1f}", interval, chance, str(found["n"]))
    Console().print(table)
    print(f"replies and scores: {folder / 'evaluation'}")
