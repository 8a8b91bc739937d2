"""The table of costs: what each variant trains, at which rate, and what a step takes in time and memory."""

from collections.abc import Callable, Sequence

from yarbus.report.costs import Cost, rate_text, ratio, reference_of, step_ratio
from yarbus.report.estimates import decimal
from yarbus.report.figure import Figure
from yarbus.report.look import Look
from yarbus.report.markup import Markup, tag

UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))
MEMORY = "On a CPU the peak includes the libraries, so that ratios lie near 1."
NOT_COMPARED = "Times under other numbers of runs or threads are not compared."
LEAST = 10_000
"""Fewer parameters are written out."""


def count_text(number: int) -> str:
    """``304 M``, ``23.8 k``, ``512``: three digits, with the letters that papers use."""
    for size, letter in UNITS:
        if number >= max(size, LEAST):
            value = number / size
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {letter}"
    return f"{number:,}"


def seconds_text(seconds: int | float) -> str:
    """``0.42 s``, or ``38 ms``."""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def ratio_text(value: float | None) -> str:
    """``1.24 times``; a dash where it is not known."""
    return "\N{EN DASH}" if value is None else f"\N{MULTIPLICATION SIGN} {decimal(value)}"


def memory_text(size: int | float) -> str:
    """``1.3 GiB``, or ``310 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _cell(*parts: object) -> Markup:
    known = [part for part in parts if part]
    return tag("td", *known) if known else tag("td", tag("span", "\N{EN DASH}", class_="quiet"))


def _parameters(trained: int | None, declared: int | None) -> Markup:
    if trained is None:
        return _cell()
    more = tag("small", f"{count_text(declared)} declared") if declared is not None and declared != trained else ""
    return _cell(count_text(trained) if trained else "0", more)


def _measured(value: int | float | None, times: float | None, text: Callable[[int | float], str]) -> Markup:
    return _cell() if value is None else _cell(text(value), tag("small", ratio_text(times)))


def _several_rates(costs: Sequence[Cost]) -> list[str]:
    """Groups whose rate is not the same in all variants that train them."""
    groups = dict.fromkeys(group for one in costs for group in one.rates)
    return [g for g in groups if len({rate_text(one.rates[g]) for one in costs if g in one.rates}) > 1]


def shared_machine(costs: Sequence[Cost]) -> str:
    """Under what circumstances seconds were measured."""
    jobs = sorted({number for one in costs for number in one.jobs})
    threads = sorted({number for one in costs for number in one.threads})
    if not jobs:
        return "How many runs shared the machine meanwhile was not recorded."
    many = f"{jobs[0]}" if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}"
    run = f"{many} runs shared" if jobs[-1] > 1 else "1 run had"
    each = f", with {threads[0]} thread{'s' if threads[0] > 1 else ''} each" if len(threads) == 1 else ""
    differ = "" if all(len(numbers) < 2 for numbers in (jobs, threads)) else f" {NOT_COMPARED}"
    return f"Measured while {run} the machine{each}.{differ}"


def _reading(costs: Sequence[Cost], reference: Cost | None) -> str:
    if reference is None:
        return "Nothing was recorded."
    ratios = {
        one.variant: found
        for one in costs
        if one.variant != reference.variant and (found := step_ratio(one, reference)) is not None
    }
    if not ratios:
        return f"No step time can be compared with {reference.variant}'s."
    low, high = min(ratios, key=lambda name: ratios[name]), max(ratios, key=lambda name: ratios[name])
    if low == high:
        return f"A step of {low} takes {decimal(ratios[low])} times as long as one of {reference.variant}."
    return (
        f"A step takes {decimal(ratios[low])} ({low}) to {decimal(ratios[high])} ({high}) times as long as one of "
        f"{reference.variant}."
    )


def cost_figure(costs: Sequence[Cost], look: Look) -> Figure | None:
    """A row for each variant; columns that no record fills are left out. None without a record."""
    reference = reference_of(costs)
    if reference is None:
        return None
    places = list(dict.fromkeys(place for one in costs for place in one.methods))
    differing = _several_rates(costs)
    has_plan = any(one.all_trained is not None for one in costs)
    has_seconds = any(one.step_seconds is not None for one in costs)
    has_memory = any(one.peak_bytes is not None for one in costs)
    heads = ["variant", *places, *(["rates that differ"] if differing else [])]
    heads += ["trained in vision", "trained in all"] if has_plan else []
    heads += ["one step"] * has_seconds + ["peak memory"] * has_memory
    rows = []
    for one in costs:
        cells = [tag("th", look.marker(one.variant), " ", one.variant, scope="row")]
        cells += [tag("td", one.methods.get(place, "\N{EN DASH}"), class_="words") for place in places]
        if differing:
            rates = "; ".join(f"{group} {rate_text(one.rates[group])}" for group in differing if group in one.rates)
            cells.append(tag("td", rates or "\N{EN DASH}", class_="words"))
        if has_plan:
            cells.append(_parameters(one.vision_trained, one.vision_declared))
            cells.append(_parameters(one.all_trained, one.all_declared))
        if has_seconds:
            cells.append(_measured(one.step_seconds, step_ratio(one, reference), seconds_text))
        if has_memory:
            cells.append(_measured(one.peak_bytes, ratio(one.peak_bytes, reference.peak_bytes), memory_text))
        rows.append(tag("tr", *cells))
    in_words = {*places, "rates that differ"}
    names = (tag("th", text, scope="col", class_="words" if text in in_words else None) for text in heads)
    head = tag("thead", tag("tr", *names))
    table = tag("table", head, tag("tbody", *rows), class_="scores costs")
    how = f"Small figures: times {reference.variant}'s." if has_seconds or has_memory else ""
    if has_seconds:
        how += f" Seconds: the median over the last stage's logged intervals. {shared_machine(costs)}"
    if has_memory:
        how += f" {MEMORY}"
    if has_plan:
        how += " Trained: parameters that a gradient reaches; 'declared' counts dead ones too, as papers do."
    title = "What each variant costs"
    return Figure(
        name="costs",
        title=title,
        reading=_reading(costs, reference),
        how=how.strip(),
        body=tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title),
        header=["variant", *places, "rates", "vision_trained", "vision_declared", "all_trained", "all_declared",
                "step_seconds", "step_ratio", "peak_bytes", "memory_ratio", "jobs", "threads"],
        rows=[
            [one.variant, *(one.methods.get(place) for place in places),
             "; ".join(f"{group} {rate_text(rate)}" for group, rate in one.rates.items()), one.vision_trained,
             one.vision_declared, one.all_trained, one.all_declared, one.step_seconds,
             step_ratio(one, reference), one.peak_bytes,
             ratio(one.peak_bytes, reference.peak_bytes), " ".join(map(str, one.jobs)), " ".join(map(str, one.threads))]
            for one in costs
        ],
    )  # fmt: skip
