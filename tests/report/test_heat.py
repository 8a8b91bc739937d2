"""Cells say with colour what their number says."""

from yarbus.report.heat import heat, scale


def test_the_side_of_the_middle_and_the_share_of_the_colour_follow_the_value():
    assert heat("a", 0.1, 0.2) == '<td class="heat above" style="--share:50%">a</td>'
    assert heat("a", -0.4, 0.2, note="n", classes="open") == (
        '<td class="heat below open" style="--share:100%">a<small>n</small></td>'
    )
    assert "--share:0%" in heat("a", 0.1, 0.0)


def test_the_legend_names_both_ends_and_the_middle():
    assert all(text in scale("low", "0", "high") for text in ("low", "high", "0 in the middle"))
