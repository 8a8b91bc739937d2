"""Gradient agreement while training: how alike the updates of a run are to each other.

The paper's "dominant direction" is not defined there, and the answer depends on the definition. So both stand here:
the cosine to the mean of the other steps (leave one out), and to the first singular vector, which every step helps
to make.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from yarbus.report.estimates import Estimate, decimal, estimate, number
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.markup import join, tag
from yarbus.report.plot import Panel, Series, legend, panels
from yarbus.report.strips import Group, Strip, axis_labels, strips

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]

SETS = {
    "layernorm": ("norms", "Like for like: the norm parameters that all variants train"),
    "all": ("all", "All trained vision parameters of each variant"),
}
DEFINITIONS = {"leave_one_out": "To the mean of the other steps", "dominant": "To the dominant direction"}

ALIKE = 0.02
"""Means of cosines nearer than this are called the same."""


def _part(record: Row, of_set: str, definition: str) -> Row:
    return ((record.get("sets") or {}).get(of_set) or {}).get(definition) or {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _spread(records: Sequence[Row], of_set: str, definition: str) -> Estimate | None:
    """Mean over steps with one standard deviation to both sides, averaged over seeds."""
    parts = [_part(record, of_set, definition) for record in records]
    mean, std = (_mean([number(part.get(key)) for part in parts]) for key in ("mean", "std"))
    if mean is None:
        return None
    return Estimate(mean) if std is None else Estimate(mean, mean - std, mean + std)


def _histogram(records: Sequence[Row], of_set: str, definition: str) -> tuple[list[float], tuple[float, float]]:
    """Counts of the first seed that has them, and where they begin and end."""
    for record in records:
        found = _part(record, of_set, definition).get("histogram") or {}
        edges, counts = found.get("edges") or [], found.get("counts") or []
        filled = [index for index, count in enumerate(counts) if count]
        if filled and len(edges) == len(counts) + 1:
            first, last = filled[0], filled[-1] + 1
            return [float(count) for count in counts[first:last]], (float(edges[first]), float(edges[last]))
    return [], (0.0, 0.0)


def _order(spreads: Mapping[str, Estimate]) -> list[str]:
    return sorted(spreads, key=lambda variant: -spreads[variant].mean)


def _alone(variant: str, value: Estimate, num_steps: int) -> str:
    """What one variant's steps have in common; steps count as independent of each other."""
    spread = value.ends[1] - value.mean
    if num_steps > 1 and abs(value.mean) < 2 * spread / sqrt(num_steps):
        return f"No common direction seen: a step of {variant} has a cosine of {decimal(value.mean)} to the others."
    return f"A step of {variant} has a cosine of {decimal(value.mean)} to the others on average."


def _reading(spreads: Mapping[str, Mapping[str, Estimate]], num_steps: int) -> str:
    orders = [_order(some) for some in spreads.values() if some]
    first = next(iter(spreads.values()))
    if len(first) < 2:
        variant, value = next(iter(first.items()))
        return _alone(variant, value, num_steps)
    if len(orders) == 2 and orders[0] != orders[1]:
        return "The two definitions put the variants in different orders, so no order is claimed."
    top, bottom = orders[0][0], orders[0][-1]
    highest, lowest = decimal(first[top].mean), decimal(first[bottom].mean)
    if first[top].mean - first[bottom].mean < ALIKE:
        return f"No difference seen: all variants lie between {lowest} and {highest}."
    both = ", by both definitions" if len(orders) == 2 else ""
    return f"Steps agree most in {top} ({highest}) and least in {bottom} ({lowest}){both}."


def _sizes(records: Records, of_set: str) -> str:
    """How many parameters the cosines are made from."""
    sizes = {}
    for variant, some in records.items():
        part = (some[0].get("sets") or {}).get(of_set) or {} if some else {}
        if number(part.get("elements")) is not None:
            sizes[variant] = f"{part['elements']:,}" + (" as a sketch" if part.get("kind") == "sketch" else "")
    if not sizes:
        return ""
    if len(set(sizes.values())) == 1:
        return f" Parameters: {next(iter(sizes.values()))}."
    unlike = " Numbers of parameters differ, which alone changes these cosines:"
    return f"{unlike} {'; '.join(f'{variant} {size}' for variant, size in sizes.items())}."


def agreement_figure(records: Records, of_set: str, look: Look) -> Figure | None:
    """Histograms of the cosines of one set of parameters by variant, under both definitions."""
    spreads = {
        definition: {
            variant: value
            for variant, some in records.items()
            if (value := _spread(some, of_set, definition)) is not None
        }
        for definition in DEFINITIONS
    }
    spreads = {definition: some for definition, some in spreads.items() if some}
    if not spreads:
        return None
    groups, ends = [], [0.0]
    for definition, some in spreads.items():
        rows = []
        for variant, value in some.items():
            counts, span = _histogram(records[variant], of_set, definition)
            ends += [*value.ends, *(span if counts else ())]
            std = "" if value.high is None else f"\N{PLUS-MINUS SIGN} {decimal(value.high - value.mean)}"
            text = join([tag("b", decimal(value.mean)), " ", tag("small", std)])
            rows.append(Strip(name=variant, dots=[(variant, value)], text=text, counts=counts, span=span))
        groups.append(Group(title=DEFINITIONS[definition], strips=rows))
    marks = ticks(max(-1.0, min(ends)), min(1.0, max(ends)), most=6)
    short, long = SETS[of_set]
    steps = sorted({int(steps) for some in records.values() for r in some if (steps := number(r.get("num_steps")))})
    num_steps = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}" if steps else "the recorded"
    return Figure(
        name=f"agreement-{short}",
        title=f"Gradient agreement. {long}",
        reading=_reading(spreads, min(steps, default=0)),
        how=f"Cosines of {num_steps} recorded steps: distribution, mean, and one standard deviation to both sides."
        + _sizes(records, of_set),
        body=strips(groups, look, marks, axis_labels(marks), "cosine"),
        header=["parameters", "definition", "variant", "mean", "std"],
        rows=[
            [of_set, definition, variant, value.mean, None if value.high is None else value.high - value.mean]
            for definition, some in spreads.items()
            for variant, value in some.items()
        ],
        classes="tall",
    )


def _quarters(records: Sequence[Row], of_set: str, definition: str) -> list[tuple[float, Estimate]]:
    """The mean of each quarter of training, averaged over the seeds that have it."""
    by_seed = [((record.get("sets") or {}).get(of_set) or {}).get("by_quarter") or [] for record in records]
    found = []
    for quarter in range(max(map(len, by_seed), default=0)):
        rows = [rows[quarter] for rows in by_seed if quarter < len(rows)]
        values = [value.mean for row in rows if (value := estimate(row.get(definition))) is not None]
        mean = _mean(values)
        if mean is not None:
            found.append((quarter + 1.0, Estimate(mean)))
    return found


def quarters_figure(records: Records, look: Look) -> Figure | None:
    """Agreement over the quarters of training, for both sets of parameters."""
    drawn, rows = [], []
    for of_set, (short, _) in SETS.items():
        series = [
            Series(name=variant, points=_quarters(some, of_set, "leave_one_out")) for variant, some in records.items()
        ]
        series = [one for one in series if one.points]
        if series:
            drawn.append(
                Panel(title=f"Parameters: {short}", series=series, x_title="quarter", x_marks=[1.0, 2.0, 3.0, 4.0])
            )
        rows += [[of_set, one.name, int(quarter), value.mean] for one in series for quarter, value in one.points]
    if not drawn:
        return None
    falls = [s.name for s in drawn[0].series if len(s.points) > 1 and s.points[-1][1].mean < s.points[0][1].mean]
    count = len(drawn[0].series)
    reading = (
        f"In {len(falls)} of {count} variants the steps agree less in the last quarter than in the first."
        if count > 1
        else f"The steps agree {'less' if falls else 'no less'} in the last quarter of training than in the first."
    )
    return Figure(
        name="agreement-quarters",
        title="Gradient agreement over training",
        reading=reading,
        how="Mean cosine of a step to the mean of the other steps of its quarter.",
        body=join([legend([(variant, "") for variant in records], look), panels(drawn, look)]),
        header=["parameters", "variant", "quarter", "cosine"],
        rows=rows,
    )


def agreement_figures(records: Records, look: Look) -> list[Figure | None]:
    """Both sets of parameters, then the course of training."""
    return [*(agreement_figure(records, of_set, look) for of_set in SETS), quarters_figure(records, look)]
