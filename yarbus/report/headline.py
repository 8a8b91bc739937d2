"""The result in plain words, and the sentences that qualify it."""

from collections.abc import Mapping, Sequence

from yarbus.report.answers import Answers
from yarbus.report.cells import Line
from yarbus.report.contrasts import Contrast, lead_of
from yarbus.report.estimates import listed, percent
from yarbus.report.intervals import Difference

ONCE = "Every variant was trained once: the intervals cover the choice of test scenes, not the luck of a training seed."


def _points(found: Difference) -> str:
    low, high = percent(found.low, True), percent(found.high, True)
    return f"{percent(found.mean, True)} points, 95 % interval {low} to {high}"


def headline_of(answers: Mapping[str, Answers], mean: Line, tasks: Sequence[str]) -> str:
    """Who leads, by how much, and whether that is more than chance."""
    cells = {variant: cell for variant, cell in mean.cells.items() if cell is not None}
    if not cells:
        return "No scores yet: nothing has been evaluated in this folder."
    over = f"the mean of {len(tasks)} tasks" if len(tasks) > 1 else tasks[0]
    ranking = sorted(cells, key=lambda variant: -cells[variant].value)
    leader = ranking[0]
    if len(ranking) == 1:
        cell = cells[leader]
        chance = "" if mean.chance is None else f"; guessing reaches {percent(mean.chance)} %"
        interval = f"95 % interval {percent(cell.low)} to {percent(cell.high)}"
        return f"{leader} answers {percent(cell.value)} % right on {over} ({interval}{chance})."
    second = ranking[1]
    score = f"{percent(cells[leader].value)} % on {over}"
    leads = {one.reference: one for one in lead_of({name: answers[name] for name in ranking}, leader, tasks)}
    if second not in leads:
        return f"{leader} reaches {score}; {second} answered other questions."
    gap = leads[second].difference
    tied = [name for name in ranking[1:] if name in leads and not leads[name].is_sure]
    if gap.includes_zero:
        return (
            f"{leader} leads with {score}, but its difference to {second} includes 0 ({_points(gap)}): this run is too "
            f"short to separate {listed([leader, *tied])}."
        )
    if not leads[second].is_sure:
        return (
            f"{leader} leads with {score}, but not for sure once all {len(leads)} others count: its difference to "
            f"{second} leaves 0 out only when looked at alone ({_points(gap)}). This run is too short to separate "
            f"{listed([leader, *tied])}."
        )
    return f"{leader} is ahead with {score}, clear of the next best, {second} ({_points(gap)})."


def _are(names: Sequence[str], claim: str) -> str:
    return f"{listed(names)} {'is' if len(names) == 1 else 'are'} {claim}" if names else ""


def against(reference: str, task: str, contrasts: Sequence[Contrast]) -> str:
    """Who is better or worse than the reference, and who cannot be told from it; empty without a contrast.

    What is clear of 0 alone, and not when all variants are counted, is no claim.
    """
    found = [c for c in contrasts if c.reference == reference and c.task == task]
    if not found:
        return ""
    above = [c for c in found if c.difference.low > 0]
    below = [c for c in found if c.difference.high < 0]
    level = [c.variant for c in found if c.difference.includes_zero]
    ahead, behind = ([c.variant for c in some if not c.is_sure] for some in (above, below))
    unsure = " and ".join(filter(None, [_are(ahead, "ahead"), _are(behind, "behind")]))
    parts = [
        _are([c.variant for c in above if c.is_sure], "better"),
        _are([c.variant for c in below if c.is_sure], "worse"),
        f"{unsure}, but not for sure once all {len(found)} variants count" if unsure else "",
        _are(level, f"not separated, {'its' if len(level) == 1 else 'their'} difference includes 0"),
    ]
    return f"Against {reference}: {'; '.join(filter(None, parts))}."


def trained_once(answers: Mapping[str, Answers]) -> str:
    """What intervals of one training seed cover; empty with several seeds or one variant."""
    seeds = [{seed for _, seed, _ in some} for some in answers.values()]
    return ONCE if len(seeds) > 1 and all(len(one) == 1 for one in seeds) else ""
