"""``yarbus audit``: proof that what should have trained did, and that it reloads."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Threads, print_json, quieten
from yarbus.core.errors import CheckpointError

SHOWN = 5
"""Faults of each check that the table names; audit.json has all of them."""


def audit(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", metavar="RUN")],
    rows: Annotated[int, typer.Option(min=1, help="Training rows to take gradients and logits on.")] = 4,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Prove that what a run should have trained did, and that its result reloads to equal logits.

    Leaves with 74 where a check fails: what lies on the disk is then not what the recipe promised.
    """
    quieten(threads)
    from yarbus.studies.audit import RECORD, audit_run

    found = audit_run(run, rows=rows)
    if json:
        print_json(found.to_json())
    else:
        console = Console(highlight=False)
        table = Table(box=None, pad_edge=False)
        for column in ("check", "verdict", "found"):
            table.add_column(column, overflow="fold")
        for check in found.checks:
            table.add_row(check.name, check.verdict, check.found)
            for fault in check.faults[:SHOWN]:
                table.add_row("", "", str(fault))
            if len(check.faults) > SHOWN:
                table.add_row("", "", f"and {len(check.faults) - SHOWN} more")
        console.print(table)
        moved = Table(box=None, pad_edge=False)
        for column in ("place", "group", "tensors", "moved by, of its own size"):
            moved.add_column(column, justify="left" if column in ("place", "group") else "right")
        for row in found.movement:
            relative = "from zero" if row["relative"] is None else f"{100 * row['relative']:.3g} %"
            moved.add_row(row["place"], row["group"], f"{row['tensors'] - row['still']} of {row['tensors']}", relative)
        console.print("")
        console.print(moved)
        for note in found.notes:
            print(note)
        print(f"record: {run / 'analysis' / RECORD}")
    if not found.passed:
        failed, first = [check.name for check in found.checks if check.failed], found.first_fault
        raise CheckpointError(
            f"the audit failed: {', '.join(failed)}",
            where=run if first is None else first.tensor,
            why="" if first is None else f"likely cause: {first.cause}",
            fix="do not use this result; train it again" if first is None else first.fix,
        )
