"""``yarbus plan``: what would train, where, at which rate."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Overrides, RecipeArgument, print_json, quieten

if TYPE_CHECKING:
    from yarbus.models.plan import PlanRow
    from yarbus.training.planning import StagePlan


def folded(rows: "tuple[PlanRow, ...]") -> "list[tuple[str, PlanRow]]":
    """Rows with neighbouring blocks of one kind put together: (``11-22``, the row of one block)."""
    kinds: dict[tuple, list[PlanRow]] = {}
    for row in rows:
        alike = (row.place, row.block is None, row.method, row.group, row.parameters, row.declared, row.trained)
        kinds.setdefault(alike, []).append(row)
    spans = []
    for some in kinds.values():
        start = 0
        for index in range(1, len(some) + 1):
            blocks = [row.block for row in some]
            if index == len(some) or blocks[index] != (blocks[index - 1] or 0) + 1:
                first, last = blocks[start], blocks[index - 1]
                span = "" if first is None else str(first) if first == last else f"{first}-{last}"
                spans.append((span, some[start]))
                start = index
    return spans


def _table(one: "StagePlan") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("place", "blocks", "group"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "trained", "rate"):
        table.add_column(name, justify="right", no_wrap=True)
    for span, row in folded(one.plan.rows):
        rate = f"{one.rates[row.group]:g}" if row.trained else ""
        trained = f"{row.trained:,}" if row.trained else "never reached" if row.declared and one.trains(row) else ""
        table.add_row(row.place, span, row.group, f"{row.parameters:,}", trained, rate)
    table.add_section()
    table.add_row("all blocks", "", "", f"{one.plan.total('parameters'):,}", f"{one.plan.total('trained'):,}", "")
    return table


def plan(recipe: RecipeArgument, overrides: Overrides = None, json: Json = False) -> None:
    """Show what a recipe would train, where and at which rate, without loading a weight."""
    from yarbus.core.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    quieten()
    from yarbus.training.planning import plan_recipe

    plans = plan_recipe(chosen)
    if json:
        print_json([one.to_json() for one in plans])
        return
    console = Console(soft_wrap=True, highlight=False)
    for one in plans:
        places = {row.place: row.method for row in one.plan.rows}
        console.print(f"stage {one.stage}: {', '.join(f'{place} {method}' for place, method in places.items())}")
        console.print("parameters of one block each")
        console.print(_table(one))
        memory = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in one.memory.items())
        console.print(f"memory in fp32, without activations: {memory}")
        for group, unused in one.unused_rates.items():
            console.print(f"unused rate: {group} {unused:g}, no method of this stage trains it")
        console.print()
