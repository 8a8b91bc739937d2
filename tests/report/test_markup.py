"""Text is escaped wherever it comes from."""

from yarbus.report.markup import join, tag


def test_children_and_attributes_are_escaped_unless_they_are_markup():
    inner = tag("b", "<script>")
    assert inner == "<b>&lt;script&gt;</b>"
    assert tag("p", inner, ' & "', title='a" onload="x') == (
        '<p title="a&quot; onload=&quot;x"><b>&lt;script&gt;</b> &amp; &quot;</p>'
    )


def test_python_names_become_attribute_names_and_none_is_left_out():
    assert tag("img", src="data:x", class_="tiny", aria_hidden="true", alt=None, hidden=True) == (
        '<img src="data:x" class="tiny" aria-hidden="true" hidden>'
    )


def test_joined_children_are_escaped_too():
    assert join([tag("i"), "<"]) == "<i></i>&lt;"
