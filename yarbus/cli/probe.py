"""``yarbus probe``: what an encoder already knows, without training it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Threads, names, print_json, quieten
from yarbus.core.errors import ConfigError


def probe(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="An encoder or vision-language model: hub id, folder, run, plug-in:path."),
    ],
    benchmarks: Annotated[str, typer.Option(help="What to classify, a,b: classes:PATH or dataset:PATH.")],
    train: Annotated[
        str | None,
        typer.Option(help="Fit a linear probe on this classes:PATH or dataset:PATH; left out: zero-shot, by names."),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Zero-shot: one, ensemble, or a JSON list of texts with one {}; one if left out.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Probe: pooled or patches of an encoder; last, mean or vision of a vision-language model."),
    ] = None,
    solvers: Annotated[str | None, typer.Option(help="Probe: lbfgs,adam; both if left out.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Probe: how many times to hold out and fit; 1 if left out.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Probe: Adam's; 500 if left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    output: Annotated[
        Path | None, typer.Option(help="Where records go; the model's own folder of a run, else runs/MODEL.")
    ] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Ask what an encoder already knows: classify by the names of classes (zero-shot), or by a linear probe."""
    chosen = names(benchmarks) or []
    if not chosen:
        raise ConfigError("no benchmarks named", fix="pass --benchmarks classes:PATH")
    if train is None and any(option is not None for option in (features, solvers, seeds, epochs)):
        raise ConfigError("a probe's option without --train", fix="add --train classes:PATH, or leave the option out")
    if train is not None and prompts is not None:
        raise ConfigError("--prompts and --train are both given", why="a probe reads no prompt", fix="leave one out")
    folder = output or (Path(model) if (Path(model) / "recipe.yaml").is_file() else _own_folder(model))
    quieten(threads)
    if train is None:
        _zero_shot(model, chosen, prompts, folder, batch, json)
    else:
        options: dict[str, Any] = {"seeds": range(seeds or 1), "batch": batch, "progress": not json}
        options |= {} if epochs is None else {"epochs": epochs}
        options |= {} if solvers is None else {"solvers": names(solvers)}
        _linear(model, features, train, chosen, folder, options, json)


def _own_folder(model: str) -> Path:
    """Never inside a folder of a model, which is somebody else's."""
    return Path("runs") / model.strip("/").replace("/", "--").replace(":", "--")


def _zero_shot(model: str, chosen: list[str], prompts: str | None, folder: Path, batch: int, json: bool) -> None:
    from yarbus.evaluation.prompts import read_prompts
    from yarbus.evaluation.zero_shot import ENSEMBLE, ONE, check_text_side, zero_shot
    from yarbus.models.bare_encoder import load_bare_encoder
    from yarbus.studies.linear_probes import is_vision_language_model
    from yarbus.studies.measuring import on_device

    own = None if prompts in (None, "one", "ensemble") else read_prompts(Path(str(prompts)))
    if is_vision_language_model(model):
        raise ConfigError(
            "a vision-language model compares no picture with texts",
            where=model,
            why="it answers questions",
            fix="ask it with 'yarbus evaluate', or fit a linear probe (--train)",
        )
    encoder = load_bare_encoder(model)
    check_text_side(encoder)
    on_device(encoder.model)
    protocol = ONE if prompts in (None, "one") else ENSEMBLE
    scores = zero_shot(encoder, chosen, folder, protocol=protocol, prompts=own, batch=batch, progress=not json)
    if json:
        print_json(scores)
        return
    rows = [(name, f"zero-shot, {prompts or 'one'}", record["metrics"]["accuracy"]) for name, record in scores.items()]
    chances = {name: record["metrics"]["accuracy"]["chance"] for name, record in scores.items()}
    _show(rows, chances)
    print(f"replies and scores: {folder / 'evaluation'}")


def _linear(
    model: str, features: str | None, train: str, chosen: list[str], folder: Path, options: dict[str, Any], json: bool
) -> None:
    from yarbus.studies.linear_probes import eyes_of, linear_probe

    eyes = eyes_of(model, features)
    record = linear_probe(eyes, train, chosen, folder, **options)
    if json:
        print_json(record)
        return
    rows = [
        (name, f"linear probe, {solver}, {record['feature']}", found)
        for name, test in record["tests"].items()
        for solver, found in test["solvers"].items()
    ]
    _show(rows, {name: test["chance"] for name, test in record["tests"].items()})
    print(f"chosen on {100 * record['held_out']:.0f} % of {record['num_train']} train pictures; records: {folder}")


def _show(rows: list[tuple[str, str, dict[str, Any]]], chances: dict[str, float]) -> None:
    table = Table(title="Accuracy in percent (95 % interval)", title_justify="left", box=None, pad_edge=False)
    for column in ("benchmark", "how", "accuracy", "interval", "chance", "questions"):
        table.add_column(column, justify="left" if column in ("benchmark", "how") else "right", overflow="fold")
    for name, how, found in rows:
        interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
        chance = f"{100 * chances[name]:.1f}"
        table.add_row(name, how, f"{100 * found['value']:.1f}", interval, chance, str(found["n"]))
    Console(markup=False, emoji=False).print(table)
