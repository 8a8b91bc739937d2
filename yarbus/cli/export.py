"""``yarbus export``: a finished run as a folder that others can use."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Threads, print_json, quieten
from yarbus.core.errors import ConfigError
from yarbus.core.folders import check_free

DTYPES = ("float32", "bfloat16", "float16")


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, an adapter's, or a model's.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist, or be empty.", metavar="FOLDER")],
    dtype: Annotated[str | None, typer.Option(help=f"Precision: {', '.join(DTYPES)}; as trained if left out.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload to this repository afterwards, OWNER/NAME.", metavar="NAME")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push-to-hub: make the repository private.")
    ] = False,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Write a run as an ordinary Hugging Face folder where it can be one, and say which servers honour it."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"no precision '{dtype}'", fix=f"use one of: {', '.join(DTYPES)}")
    check_free(folder)
    quieten(threads)
    from yarbus.studies.export import export as write

    written = write(run, folder, dtype=dtype, push_to_hub=push_to_hub, private=private)  # type: ignore[arg-type]
    if json:
        print_json({"folder": str(folder), "url": written.url, **written.to_json()})
        return
    if written.folded:
        print(f"low-rank updates were folded into the weights: {', '.join(written.folded)}")
    if written.is_plain:
        print(f"{folder}: an ordinary Hugging Face model in {written.dtype}, for plain from_pretrained")
    elif written.kind == "registers":
        print(f"{folder}: a yarbus model in {written.dtype}, for yarbus.load, which drops the tower's registers")
    else:
        kept = ", ".join(f"{place} {method}" for place, method in written.stays.items())
        print(f"{folder}: a full yarbus model in {written.dtype}, for yarbus.load; no plain model computes {kept}")
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("program", "verdict", "why"):
        table.add_column(column, overflow="fold", no_wrap=column != "why")
    for row in written.servers:
        table.add_row(row["server"], row["verdict"], row["why"])
    console.print(table)
    print("ignores: it would start and answer without what was trained, and say nothing")
    if written.url is not None:
        print(f"uploaded: {written.url}")
