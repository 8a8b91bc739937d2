"""The sections of a page that compare variants: who differs from whom, what one task decides, what each costs."""

from collections.abc import Sequence

from yarbus.report.cost_table import cost_figure
from yarbus.report.costs import Cost
from yarbus.report.differences import difference_matrix
from yarbus.report.document import Section
from yarbus.report.dots import difference_parts
from yarbus.report.figure import Origin, show, show_all
from yarbus.report.leave_out_table import leave_out_figure
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag
from yarbus.report.ranking import ranking_figure
from yarbus.report.summary import Summary

MANY = 5
"""Of more variants than this the dots by task lie one click away."""


def _differences(summary: Summary, variants: Sequence[str], look: Look, origin: Origin) -> Markup:
    """The ranking, the first reference's matrix (the others' one click away), and the dots."""
    drawn = [difference_matrix(summary, reference, variants, look) for reference in summary.references]
    matrices = [figure for figure in drawn if figure is not None]
    folded = [tag("details", tag("summary", figure.title), show(figure, origin)) for figure in matrices[1:]]
    ranked = ranking_figure(summary, variants, look)
    dots = difference_parts(summary, look, origin, is_short=len(variants) > MANY)
    return join([show_all([ranked, *matrices[:1]], origin), *folded, dots])


def comparing_sections(
    summary: Summary, variants: Sequence[str], costs: Sequence[Cost], look: Look, origin: Origin
) -> list[Section]:
    """Those that there is something to show for; a page leaves empty ones out."""
    without = leave_out_figure(summary, variants, look)
    return [
        Section(title="Differences", content=_differences(summary, variants, look, origin)),
        Section(title="Without one task", content=show_all([without], origin)),
        Section(title="Costs", content=show_all([cost_figure(costs, look)], origin)),
    ]
