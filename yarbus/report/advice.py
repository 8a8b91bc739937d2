"""The advice on top of a page: what was found, what to do, where, and how sure that is."""

from typing import Any

from yarbus.report.estimates import Estimate, estimate, interval, number, ranges, rounded
from yarbus.report.figure import Figure
from yarbus.report.markup import Markup, tag

Row = dict[str, Any]

VERDICTS = {
    "conflict": "Yes, they pull in different directions",
    "agreement": "No, they agree",
    "undecided": "This evidence does not decide",
}
ACTIONS = {
    "condition": "Let the question steer the tower",
    "tune": "Tune the tower",
    "freeze": "Freeze the tower",
    "undecided": "No advice is given",
}
"""Each action in plain words; the record's own word stands beside it."""


def _answer(question: str, answer: str, note: str = "") -> Markup:
    return tag("div", tag("dt", question), tag("dd", answer, *([" ", tag("small", note)] if note else [])))


def _where(blocks: list[int]) -> str:
    if not blocks:
        return "No block stands out"
    return f"Block{'s' if len(blocks) > 1 else ''} {ranges(blocks)}"


def _named(name: str) -> str:
    """A figure's name as words."""
    return name.replace("_", " ")


def advice_figure(advice: Row | None) -> Figure | None:
    """The advice's figures, each beside the threshold of the same name; thresholds of other names below."""
    if not advice:
        return None
    thresholds = {str(name): value for name, value in (advice.get("thresholds") or {}).items()}
    known: list[tuple[str, Estimate, str]] = []
    for row in advice.get("figures") or []:
        value = estimate(row.get("value"))
        if value is not None:
            known.append((str(row.get("name", "")), value, str(row.get("unit") or "")))
    if not known and not thresholds:
        return None
    matched = {name for name, _, _ in known} & set(thresholds)

    def limit(name: str) -> str:
        value = number(thresholds.get(name))
        return rounded(value) if value is not None else str(thresholds.get(name, ""))

    rows = [
        tag(
            "tr",
            tag("th", _named(name), scope="row"),
            tag("td", tag("b", rounded(value.mean)), f" {unit}" if unit else ""),
            tag("td", interval(value) or "\N{EN DASH}"),
            *([tag("td", limit(name))] if matched else []),
        )
        for name, value, unit in known
    ]
    heads = ["figure", "value", "95 % interval", *(["threshold"] if matched else [])]
    table = tag(
        "table", tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads))), tag("tbody", *rows)
    )
    others = [f"{_named(name)} {limit(name)}" for name in thresholds if name not in matched]
    text = f"Thresholds: {'; '.join(others)}. " if others else ""
    text += str(advice.get("thresholds_from") or "")
    return Figure(
        name="advice",
        title="Figures and thresholds",
        reading=text or "No threshold was recorded.",
        body=tag("div", table, class_="wide plain-table"),
        header=["figure", "value", "low", "high", "unit", "threshold"],
        rows=[[name, value.mean, value.low, value.high, unit, thresholds.get(name)] for name, value, unit in known],
    )


def advice_card(advice: Row | None) -> Markup:
    """Four short answers; a sentence where no advice was recorded."""
    if not advice:
        return tag("p", "No advice was recorded.", class_="quiet")
    verdict, action = str(advice.get("verdict", "undecided")), str(advice.get("action", "undecided"))
    blocks = [int(block) for block in advice.get("blocks") or []]
    answers = [
        _answer("Do the tasks conflict?", VERDICTS.get(verdict, verdict)),
        _answer("What to do", ACTIONS.get(action, action), "" if action == "undecided" else f"({action})"),
        _answer("Where", _where(blocks)),
        _answer("How sure", str(advice.get("sureness") or "Not recorded")),
    ]
    return tag("dl", *answers, class_="advice")


def advice_sentences(advice: Row | None) -> Markup:
    """What qualifies the headline."""
    sentences = (advice or {}).get("sentences") or []
    if not sentences:
        return Markup("")
    return tag("ul", *(tag("li", str(sentence)) for sentence in sentences), class_="sentences")
