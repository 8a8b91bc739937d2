"""``yarbus interpolate``: the model between two finished ones, or the whole curve of them."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Threads, names, print_json, quieten
from yarbus.core.errors import ConfigError

HALF = 0.5
MOST = 1001
ALPHAS = "START:STOP:STEP, such as 0:1:0.1, or a list a,b"


def alphas_of(text: str) -> list[float]:
    """``0:1:0.25`` or ``0,0.5,1`` as numbers; both ends of a range belong to it."""
    try:
        parts = [float(part) for part in text.split(":" if ":" in text else ",")]
    except ValueError:
        raise ConfigError(f"alphas are '{text}'", fix=f"write {ALPHAS}") from None
    if ":" not in text:
        return parts
    if len(parts) != 3 or not parts[2] > 0 or not (parts[1] - parts[0]) / parts[2] < MOST:
        raise ConfigError(f"alphas are '{text}'", why="they are no range of numbers", fix=f"write {ALPHAS}")
    start, stop, step = parts
    # Rounded, so that the stop is what was written: 0.09 + 13 * 0.07 is more than 1.
    found = [round(start + step * number, 10) for number in range(round((stop - start) / step) + 1)]
    if not found or abs(found[-1] - stop) > 1e-9:
        raise ConfigError(f"alphas are '{text}'", why="the steps do not end at the stop", fix=f"write {ALPHAS}")
    return found


def interpolate(
    a: Annotated[
        str, typer.Argument(metavar="A", help="What alpha 0 is: a run, an adapter, a model folder, or a base.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What alpha 1 is.")],
    out: Annotated[Path, typer.Option(help="Folder to write: the blend, or the sweep's record and replies.")],
    alpha: Annotated[
        float | None, typer.Option(help="Share of the second model, from 0 to 1; 0.5 if left out.")
    ] = None,
    alphas: Annotated[
        str | None, typer.Option(help="Ask every blend instead of writing one: START:STOP:STEP, or a,b.")
    ] = None,
    benchmarks: Annotated[
        str | None, typer.Option(help="With --alphas: what to ask, a,b; the recipe's of a run if left out.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="With --alphas: how to ask and judge.")] = "official",
    batch: Annotated[int, typer.Option(min=1, help="With --alphas: questions at a time.")] = 32,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Blend the weights of two finished models (WiSE-FT), and with --alphas find out what each blend can do."""
    if alphas is None:
        if benchmarks is not None:
            fix = "add --alphas to ask several blends, or ask the one with 'yarbus evaluate'"
            raise ConfigError("--benchmarks without --alphas", fix=fix)
        _one(a, b, HALF if alpha is None else alpha, out, threads, json)
        return
    if alpha is not None:
        raise ConfigError("--alpha and --alphas are both given", fix="--alpha writes one blend, --alphas asks several")
    chosen = alphas_of(alphas)
    quieten(threads)
    from yarbus.core.records import read_record
    from yarbus.report.sweeps import RECORD
    from yarbus.studies.sweep import sweep

    folder = sweep(
        a, b, names(benchmarks), alphas=chosen, folder=out, protocol=protocol, batch=batch, progress=not json,
        command=shlex.join(["yarbus", *sys.argv[1:]]),
    )  # fmt: skip
    record = read_record(folder / RECORD)
    if json:
        print_json(record)
        return
    Console().print(_table(record))
    print(f"\nReport: {folder / 'report' / 'index.html'}")


def _one(a: str, b: str, alpha: float, out: Path, threads: int, json: bool) -> None:
    from yarbus.core.folders import check_free
    from yarbus.models.interpolate import RECORD, check_alpha

    check_alpha(alpha)
    check_free(out)
    quieten(threads)
    from yarbus.core.records import read_record
    from yarbus.methods.wise_ft import interpolate as blend

    blend(a, b, alpha, out=out)
    record = read_record(out / RECORD)
    if json:
        print_json(record)
        return
    is_adapter = (out / "adapter.json").is_file()
    if record["folded"]:
        print("low-rank updates were folded into the weights: the blend is a full model")
    kind, loader = ("adapter", "yarbus.load_adapter") if is_adapter else ("full model", "yarbus.load")
    print(f"{1 - alpha:g} of {a} and {alpha:g} of {b}: {kind} in {out}, for {loader} and 'yarbus evaluate'")


def _table(record: dict[str, Any]) -> Table:
    """A row for each alpha, a column for each benchmark's first metric."""
    table = Table(title="Score in percent by alpha", title_justify="left", box=None, pad_edge=False)
    table.add_column("alpha")
    asked = list(dict.fromkeys(name for point in record["points"] for name in point["scores"]))
    for name in asked:
        table.add_column(name, justify="right", overflow="fold")
    for point in record["points"]:
        firsts = (next(iter(point["scores"].get(name, {}).values()), None) for name in asked)
        cells = ["" if one is None else f"{100 * one['value']:.1f}" for one in firsts]
        table.add_row(f"{point['alpha']:g}", *cells)
    return table
