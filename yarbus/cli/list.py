"""``yarbus list``: the tables of what there is."""

from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yarbus.cli.options import Json, print_json, quieten


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    families = "families"
    towers = "towers"
    benchmarks = "benchmarks"
    recipes = "recipes"


def _first_sentence(documentation: str | None) -> str:
    text = " ".join((documentation or "").split("\n\n")[0].split())
    return text.split(" (")[0].split(". ")[0].rstrip(".").replace("`", "")


def _what_of(table: Any, name: str) -> str:
    """The first sentence about an entry that has a file of its own."""
    module = table.module_of(name)
    return _first_sentence(import_module(module).__doc__) if module else ""


def _methods() -> list[dict[str, Any]]:
    from yarbus.methods import METHODS

    rows = []
    for place, table in METHODS.items():
        for name, cls in table.items():
            facts = {"paper": cls.paper, "start": cls.start, "fidelity": cls.fidelity, "layouts": list(cls.layouts)}
            rows.append({"place": place, "method": name, **facts, "what": _first_sentence(cls.__doc__)})
    return rows


def _families() -> list[dict[str, Any]]:
    from yarbus.models.tested import tested_of
    from yarbus.models.vlm import FAMILIES

    return [
        {
            "config": name,
            "what": _what_of(FAMILIES, name),
            "tower": family.vision_tower,
            "projector": family.projector,
            "language": family.language_model,
            "images": "cross" if family.cross_attends else "tokens",
            "tested": tested_of(name),
        }
        for name, family in FAMILIES.items()
    ]


def _towers() -> list[dict[str, Any]]:
    from yarbus.models.vlm import TOWERS

    return [
        {
            "config": name,
            "what": _what_of(TOWERS, name),
            "blocks": list(tower.blocks),
            "linears": list(tower.linears),
            "layout": tower.layout,
        }
        for name, tower in TOWERS.items()
    ]


def _benchmarks() -> list[dict[str, Any]]:
    from yarbus.core.plugins import benchmark_table

    rows = []
    for name, benchmark in benchmark_table().items():
        chance = benchmark.chance_of(next(iter(benchmark.metrics)))
        entry = {"benchmark": name, "protocols": list(benchmark.protocols), "chance": chance}
        rows.append({**entry, "licence": benchmark.licence})
    return rows


def _recipes() -> list[dict[str, Any]]:
    from yarbus.core.recipe import load_recipe, recipe_files

    rows = []
    for name in recipe_files():
        recipe = load_recipe(name)
        variants = list(recipe.compare.variants) if recipe.compare else []
        rows.append({"recipe": name, "base": recipe.model.title, "stages": list(recipe.stages), "variants": variants})
    return rows


LISTS = {
    Kind.methods: _methods,
    Kind.families: _families,
    Kind.towers: _towers,
    Kind.benchmarks: _benchmarks,
    Kind.recipes: _recipes,
}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def _briefly(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Methods in two tables that fit into 80 columns: a line of facts each, and what each is, once for all places."""
    from yarbus.models.attachment import Method

    facts = [
        {
            **{key: row[key] for key in ("place", "method", "start", "fidelity")},
            "layouts": "all" if set(row["layouts"]) == set(Method.layouts) else row["layouts"],
            "paper": row["paper"].rpartition(", ")[2],  # without the title, where one is named
        }
        for row in rows
    ]
    meanings = dict.fromkeys((row["method"], row["what"]) for row in rows)
    return [facts, [{"method": method, "what": what} for method, what in meanings]]


def _how_much(value: Any) -> Any:
    """What was tested of a family, in short: on how many small models, how many checks hold."""
    is_record = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    return f"{sum(one['holds'] for one in value):,} checks" if is_record and value else value


def _apart(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Families or towers in two tables: a line of facts each, and what each is."""
    facts = [{key: _how_much(value) for key, value in row.items() if key != "what"} for row in rows]
    return [facts, [{"config": row["config"], "what": row["what"]} for row in rows]]


SPLIT = {Kind.methods: _briefly, Kind.families: _apart, Kind.towers: _apart}
"""Kinds whose rows are too long for one table."""


def list_entries(kind: Annotated[Kind, typer.Argument(help="What to list.")], json: Json = False) -> None:
    """List methods, families, towers, benchmarks or recipes."""
    if kind in (Kind.methods, Kind.families, Kind.towers, Kind.benchmarks):
        quieten()
    rows = LISTS[kind]()
    if json:
        print_json(rows)
        return
    console, is_brief = Console(), kind is Kind.methods
    for number, part in enumerate(SPLIT[kind](rows) if kind in SPLIT else [rows]):
        if number:
            console.print()
        columns = list(part[0]) if part else []
        table = Table(box=None, pad_edge=False)
        for column in columns:
            is_whole = column != columns[-1] if is_brief else kind in SPLIT and column == columns[0]
            table.add_column(column, overflow="fold", no_wrap=is_whole)
        for row in part:
            table.add_row(*(escape(_text(value)) for value in row.values()))
        console.print(table)
