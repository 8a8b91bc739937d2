"""The shell of a page."""

from yarbus.report.document import FEW_SECTIONS, Section, document, header
from yarbus.report.markup import Markup, tag


def sections(count: int) -> list[Section]:
    return [Section(title=f"Part {number}?", content=tag("p", "x")) for number in range(count)]


def test_a_long_page_has_a_table_of_contents_that_leads_to_its_sections():
    page = document("run", header("run", "Headline"), sections(FEW_SECTIONS + 1))
    assert page.count('<a href="#part-') == FEW_SECTIONS + 1
    assert 'href="#part-0"' in page and 'id="part-0"' in page
    assert "<nav" not in document("run", header("run", "Headline"), sections(FEW_SECTIONS))


def test_a_section_without_content_is_left_out():
    page = document("run", header("run", "Headline"), [Section(title="Empty", content=Markup(""))])
    assert "Empty" not in page


def test_headline_and_name_are_text():
    page = document("<b>", header("<b>", "<i>"), [])
    assert "<b>" not in page.replace("<body>", "") and "&lt;i&gt;" in page
