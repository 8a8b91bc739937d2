"""Where images are sent: the experts' weights by task and block, and how sharp the router chooses.

A router that always says 1/E routes nothing, however it was trained: its entropy stands beside the maximum, and the
share of variance that tasks explain beside what chance alone would explain.
"""

from collections.abc import Sequence
from typing import Any

from yarbus.report.estimates import Estimate, decimal, estimate, first_of, number, ranges, words
from yarbus.report.figure import Figure
from yarbus.report.heat import heat, scale
from yarbus.report.markup import Markup, join, tag

Row = dict[str, Any]

ONE_EXPERT = 0.98
"""Mean weight above which a task is said to go to one expert."""


def _chance(record: Row) -> float | None:
    """What labels without meaning would explain of the variance on average: (tasks - 1) / (images - 1)."""
    sizes = [int(size) for value in (record.get("tasks") or {}).values() if (size := number(value))]
    return (len(sizes) - 1) / (sum(sizes) - 1) if len(sizes) > 1 else None


def _relative_entropy(block: Row) -> float | None:
    found, most = estimate(block.get("entropy")), number(block.get("max_entropy"))
    return found.mean / most if found is not None and most else None


def _before(block: Row) -> str:
    """What tasks explained before training: a random router already tells tasks apart by their words."""
    share = number((block.get("untrained") or {}).get("between_tasks"))
    return "" if share is None else f" (untrained: {100 * share:.1f} %)"


def _collapsed(blocks: Sequence[Row]) -> list[int]:
    """Blocks in which every task is sent to one and the same expert."""
    found = []
    for block in blocks:
        weights = [row.get("weights") or [0.0] for row in block["by_task"].values()]
        if any(min(one[expert] for one in weights) > ONE_EXPERT for expert in range(min(map(len, weights)))):
            found.append(int(block["block"]))
    return found


def _reading(record: Row, blocks: list[Row]) -> str:
    shares = {int(b["block"]): share for b in blocks if (share := number(b.get("between_tasks"))) is not None}
    levels = [level for block in blocks if (level := _relative_entropy(block)) is not None]
    one = _collapsed(blocks)
    sharp = f" In block {ranges(one)} every task goes to one and the same expert." if one else ""
    sharp += f" Entropy is {100 * min(levels):.0f} to {100 * max(levels):.0f} % of its maximum." if levels else ""
    chance = _chance(record)
    if not shares or chance is None:
        return f"With one task, routing cannot depend on it.{sharp}"
    block, most = max(shares.items(), key=lambda item: item[1])
    against = f"tasks explain at most {100 * most:.1f} % of the weights' variance"
    against += f" (block {block}; chance {100 * chance:.1f} %)"
    if most <= 2 * chance:
        return f"No dependence on the task seen: {against}.{sharp}"
    return f"Routing depends on the task: {against}.{sharp}"


def _entropy_cell(value: Estimate | None, most: float | None) -> Markup:
    """A bar as long as the share of the maximum, and the number."""
    if value is None:
        return tag("td", class_="entropy")
    share = f"{100 * value.mean / most:.1f}%" if most else "0%"
    bar = tag("span", tag("span", style=f"width:{share}"), class_="bar", aria_hidden="true")
    return tag("td", bar, decimal(value.mean), class_="entropy")


def _block_table(block: Row, tasks: Sequence[str], num_experts: int, reach: float) -> Markup:
    """Tasks by experts of one block, coloured by the distance from an equal share."""
    even = 1 / num_experts
    most = number(block.get("max_entropy"))
    rows = []
    for task in tasks:
        found = (block.get("by_task") or {}).get(task) or {}
        weights = [number(weight) for weight in found.get("weights") or []]
        cells = [
            tag("td", "\N{EN DASH}", class_="heat none") if w is None else heat(f"{100 * w:.0f}", w - even, reach)
            for w in (weights + [None] * num_experts)[:num_experts]
        ]
        rows.append(
            tag("tr", tag("th", task, scope="row"), *cells, _entropy_cell(estimate(found.get("entropy")), most))
        )
    heads = [tag("th", tag("span", f"{number + 1}"), scope="col") for number in range(num_experts)]
    head = tag("tr", tag("td"), *heads, tag("th", "entropy", scope="col", class_="entropy"))
    entropy, apart = estimate(block.get("entropy")), estimate(block.get("expert_distance"))
    facts = [f"entropy {words(entropy)} of at most {decimal(most)}"] if entropy is not None and most else []
    share = number(block.get("between_tasks"))
    facts += [f"tasks explain {100 * share:.1f} %{_before(block)}"] if share is not None else []
    facts += [f"experts differ by {decimal(apart.mean, 3)}"] if apart is not None else []
    return tag(
        "div",
        tag("p", f"Block {block['block']}", class_="panel-title"),
        tag("table", tag("thead", head), tag("tbody", *rows), class_="matrix routing"),
        tag("p", "; ".join(facts).capitalize() + "." if facts else "", class_="quiet"),
        class_="panel",
    )


def routing_figure(variant: str, records: Sequence[Row]) -> Figure | None:
    """The experts' mean weights by task, one table per block, with the entropy beside its maximum; first seed."""
    record = records[0] if records else {}
    blocks = [block for block in record.get("by_block") or [] if block.get("by_task")]
    num_experts = int(record.get("num_experts") or 0)
    if not blocks or num_experts < 2:
        return None
    tasks = list(dict.fromkeys([*(record.get("tasks") or {}), *(task for b in blocks for task in b["by_task"])]))
    weights = [
        (block["block"], task, expert, weight)
        for block in blocks
        for task in tasks
        for expert, value in enumerate(((block["by_task"].get(task) or {}).get("weights") or [])[:num_experts])
        if (weight := number(value)) is not None
    ]
    if not weights:
        return None
    farthest = max(abs(weight - 1 / num_experts) for *_, weight in weights)
    reach = next((step for step in (0.05, 0.1, 0.25, 0.5, 0.75) if farthest <= step), 1.0)
    even = 100 / num_experts
    tables = (_block_table(block, tasks, num_experts, reach) for block in blocks)
    return Figure(
        name=f"routing-{variant}",
        title=f"Routing of {variant} by task and block, in percent",
        reading=_reading(record, blocks),
        how=f"Rows are tasks, columns experts; {even:.0f} % each would be no routing. The bar is the entropy's share "
        f"of its maximum: full is an even mixture. {first_of(records)}",
        body=join(
            [
                tag("div", *tables, class_="panels blocks", style=f"--least:{9.7 + 2.15 * num_experts:.1f}rem"),
                scale(f"{decimal(-100 * reach, 0)} points", f"{even:.0f} %", f"{decimal(100 * reach, 0, True)} points"),
            ]
        ),
        header=["variant", "block", "task", "expert", "weight"],
        rows=[[variant, block, task, expert + 1, weight] for block, task, expert, weight in weights],
    )
