"""``yarbus plan``: what would train, where, at which rate, and the memory of a step."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from yarbus.cli.options import Json, Overrides, RecipeArgument, print_json, quieten
from yarbus.core.places import GROUPS
from yarbus.core.shares import shared_places

if TYPE_CHECKING:
    from yarbus.core.sections import Stage
    from yarbus.models.plan import PlanRow
    from yarbus.training.footprint import Footprint
    from yarbus.training.planning import StagePlan

WIDTH = 100
"""Columns that the table takes at most; a narrower terminal wraps its lines, as cut figures would be wrong ones."""


def folded(one: "StagePlan") -> "list[tuple[str, PlanRow]]":
    """Rows with neighbouring blocks of one kind and rate put together: (``11-22``, the row of one block)."""
    kinds: dict[tuple, list[PlanRow]] = {}
    for row in one.plan.rows:
        counts = (row.parameters, row.declared, row.trained)
        alike = (row.place, row.block is None, row.method, row.group, *counts, one.span(row))
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
    places = [row.place for row in one.plan.rows]
    groups = ["", *GROUPS]

    def position(row: "PlanRow") -> tuple[int, int, int]:
        return places.index(row.place), groups.index(row.group), -1 if row.block is None else row.block

    return sorted(spans, key=lambda found: position(found[1]))


def _rate(span: tuple[float, float] | None) -> str:
    if span is None:
        return ""
    low, high = span
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _table(one: "StagePlan") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("place", "blocks", "group"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "declared", "trained", "rate"):
        table.add_column(name, justify="right", no_wrap=True)
    declared = sum(row.declared for row in one.plan.rows if one.trains(row))
    for span, row in folded(one):
        counts = f"{row.parameters:,}", f"{row.declared:,}" if row.declared and one.trains(row) else ""
        trained = f"{row.trained:,}" if row.trained else "never reached" if row.declared and one.trains(row) else ""
        table.add_row(row.place, span, row.group, *counts, trained, _rate(one.span(row)))
    table.add_section()
    for group in one.rates:
        counts = f"{one.plan.total('declared', group):,}", f"{one.plan.total('trained', group):,}"
        table.add_row("in all", "", group, "", *counts, "")
    totals = (f"{count:,}" for count in (one.plan.total("parameters"), declared, one.plan.total("trained")))
    table.add_row("in all", "", "", *totals, "")
    return table


def _own_rates(one: "StagePlan", stage: "Stage") -> list[str]:
    """A line for each group whose rate goes another way than the stage's."""
    lines = []
    for group, rate in one.rates.items():
        if isinstance(rate, dict):
            warmup = rate.get("warmup_fraction", stage.warmup_fraction)
            way = f"{rate.get('schedule', stage.schedule)} after a warm-up of {100 * warmup:g} % of the steps"
            if "frozen_fraction" in rate:
                way += f", 0 in the first {100 * rate['frozen_fraction']:g} % of them"
            decay = f", times {rate['block_decay']:g} per block towards the input" if "block_decay" in rate else ""
            lines.append(f"rate of {group}: {rate['peak']:g}{decay}; {way}")
    if lines and len(lines) < len(one.rates):
        way = f"{stage.schedule} after a warm-up of {100 * stage.warmup_fraction:g} % of the steps"
        lines.append(f"rate of the others: {way}")
    return lines


TERMS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state (AdamW)",
    "buckets": "copy of the gradients (DDP)",
    "activations": "activations kept for backward",
    "weight_copies": "bfloat16 copies of weights",
    "logits": "logits and their gradient",
    "recomputed": "one block run again (checkpointing)",
}
GIB = 2**30


def size(nbytes: int) -> str:
    """Bytes as GiB, or as MiB where that is less than one."""
    return f"{nbytes / GIB:,.2f} GiB" if nbytes >= GIB else f"{nbytes / 2**20:,.1f} MiB"


def _memory(found: "Footprint") -> list[str]:
    """The batch that was assumed, a line for each term, and the most at once."""
    shape = found.shape
    rows = f"{shape.rows} rows of {shape.tokens:,} tokens, {shape.answer_tokens:,} of them answer"
    devices = "on one device" if found.devices == 1 else f"on each of {found.devices} devices"
    lines = [f"memory {devices}, {found.precision}, {rows}, {shape.images} picture(s) each"]
    for term, name in TERMS.items():
        nbytes = getattr(found, term)
        estimated = "" if term in ("weights", "gradients", "optimizer", "buckets") else "  for this batch"
        lines += [f"  {name:<36}{size(nbytes):>14}{estimated}"] if nbytes else []
    lines.append(f"  {'the most at once':<36}{size(found.peak):>14}  estimated")
    if found.gradient_checkpointing:
        kept = f"without gradient checkpointing activations and copies would take {size(found.if_not_checkpointed)}"
        lines.append(f"  {kept}")
    if shape.answer_tokens < shape.tokens:
        lines.append(f"  logits at every position, not at answers alone: {size(found.logits_at_all_positions)}")
    return lines


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs that share the batch out (DDP).")] = 1,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a row; the stage's max_tokens if left out, else 2048.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Pictures of a row.")] = 1,
    side: Annotated[
        int | None, typer.Option(min=1, help="Side of a picture in pixels where any will do; 784 if left out.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Supervised tokens of a row; all but the picture's if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a recipe would train, where, at which rate and in how much memory, without loading a weight."""
    from yarbus.core.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    quieten()
    from yarbus.training.footprint import Asked
    from yarbus.training.planning import plan_recipe

    asked = Asked(devices=devices, tokens=tokens, images=images, side=side, answer_tokens=answer_tokens)
    plans = plan_recipe(chosen, asked)
    if json:
        print_json([one.to_json() for one in plans])
        return
    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, WIDTH)
    for one in plans:
        places = {row.place: row.method for row in one.plan.rows}
        console.print(f"stage {one.stage}: {', '.join(f'{place} {method}' for place, method in places.items())}")
        console.print("parameters of one block each")
        console.print(_table(one))
        stage = chosen.stages[one.stage]
        for line in _own_rates(one, stage):
            console.print(line)
        if stage.fraction != 1:
            steps = f", {stage.num_steps:,} of {stage.steps:,} steps" if stage.steps and stage.num_steps else ""
            console.print(f"data: {100 * stage.fraction:g} % of the rows{steps}")
        for entry in stage.data:
            if entry.share is not None:
                rows = shared_places(stage.batch, entry.share)
                console.print(f"data: {entry.path} has {rows} of the {stage.batch} rows of every batch")
        if one.footprint is None:
            memory = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in one.memory.items())
            console.print(f"memory in fp32, without activations ({one.not_estimated}): {memory}")
        else:
            for line in _memory(one.footprint):
                console.print(line)
        for group, unused in one.unused_rates.items():
            console.print(f"unused rate: {group} {unused:g}, no method of this stage trains it")
        console.print()
