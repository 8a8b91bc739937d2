"""The advice stands in plain words beside its figures."""

from tests.report.synthetic_diagnosis import ADVICE
from yarbus.report.advice import advice_card, advice_figure, advice_sentences


def test_four_answers_say_what_was_found_what_to_do_where_and_how_sure():
    card = advice_card(ADVICE)
    for text in ("Yes, they pull in different directions", "Let the question steer the tower", "(condition)",
                 "Blocks 3 to 5", "Fairly sure"):  # fmt: skip
        assert text in card


def test_undecided_gives_no_advice_and_names_no_block():
    card = advice_card({**ADVICE, "verdict": "undecided", "action": "undecided", "blocks": []})
    assert "This evidence does not decide" in card and "No advice is given" in card and "No block stands out" in card
    assert "(undecided)" not in card


def test_figures_stand_beside_the_threshold_of_their_name():
    figure = advice_figure(ADVICE)
    assert figure.rows[0] == ["corrected cosine, blocks 3 to 5", 0.21, 0.13, 0.29, "", 0.5]
    assert "<td><b>0.21</b></td><td>0.13 to 0.29</td><td>0.50</td>" in figure.body
    assert "<b>6</b> of 21" in figure.body
    assert figure.reading.startswith("Thresholds: least ceiling 0.10. Thresholds were set on")


def test_words_that_are_not_known_are_shown_as_they_are_and_escaped():
    card = advice_card({"verdict": "<b>maybe</b>", "action": "wait"})
    assert "&lt;b&gt;maybe" in card and "(wait)" in card and "Not recorded" in card


def test_without_advice_the_page_says_so():
    assert "No advice was recorded" in advice_card(None)
    assert advice_figure(None) is None and advice_figure({"figures": []}) is None
    assert advice_sentences({"sentences": []}) == ""
    assert "<li>" in advice_sentences(ADVICE)
