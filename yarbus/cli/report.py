"""``yarbus report``: the page of a run or a comparison, from its records alone."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from yarbus.cli.options import Json, print_json


def show(folders: list[Path], json: bool) -> None:
    """The table of a comparison, or the advice of a study of conflict, on standard output."""
    from yarbus.report.runs import is_conflict, read_conflict
    from yarbus.report.summary import summarise
    from yarbus.report.sweeps import read_all
    from yarbus.report.tables import conflict_table, terminal_table, to_json

    if len(folders) == 1 and is_conflict(folders[0]):
        record = read_conflict(folders[0]).record
        if json:
            print_json(record)
        else:
            Console().print(conflict_table(record))
        return
    comparison, _ = read_all(folders)
    summary = summarise(comparison)
    if json:
        print_json(to_json(comparison, summary))
    else:
        Console().print(terminal_table(comparison, summary))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or of one comparison.", metavar="RUN...")],
    output: Annotated[
        Path | None, typer.Option(help="File to write; report/index.html in the folder if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the one-file HTML report of runs or a comparison, and print its table."""
    from yarbus.report.html import write_report

    page = write_report(runs, output)
    show(runs, json)
    if not json:
        print(f"\nReport: {page}")
