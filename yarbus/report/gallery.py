"""Pictures with their question, the right answer, and what every variant said.

Nobody picks the pictures: within each kind (variants disagree, all right, all wrong) questions are put in the
order of a hash of their id and taken in turn from every task.
"""

from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from yarbus.report.answers import answers_of
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag
from yarbus.report.runs import Comparison, Row

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
TINY_PX = 160
"""A picture at most this wide and high is enlarged with its pixels kept."""
EMBEDDED_PX = 480
"""Larger pictures are reduced to this before they are put into the page."""
LONGEST_TEXT = 400

KINDS = {"disagree": ("Variants disagree", 12), "right": ("All right", 4), "wrong": ("All wrong", 4)}
"""Kind -> heading and how many are shown."""
RULE = (
    "Chosen by a fixed rule, not by hand: within each kind, questions in the order of a hash of their id, "
    "taken in turn from every task."
)


@dataclass(frozen=True)
class Card:
    """One question with the line of replies.jsonl of every variant."""

    task: str
    sample_id: str
    kind: str
    rows: dict[str, Row]


def cards(comparison: Comparison) -> list[Card]:
    """The questions shown, by kind; of several seeds the first one's replies."""
    answers, _ = answers_of(comparison)
    answers = {variant: some for variant, some in answers.items() if some}
    if not answers:
        return []
    common = set.intersection(*(set(some) for some in answers.values()))
    first = min((seed for _, seed, _ in common), default=0)
    found: dict[str, dict[str, list[Card]]] = {kind: defaultdict(list) for kind in KINDS}
    order = sorted(
        (key for key in common if key[1] == first), key=lambda key: sha256(f"{key[0]}/{key[2]}".encode()).digest()
    )
    for key in order:
        rows = {variant: some[key] for variant, some in answers.items()}
        verdicts = {bool(row["is_correct"]) for row in rows.values()}
        kind = "disagree" if len(verdicts) == 2 else "right" if verdicts == {True} else "wrong"
        found[kind][key[0]].append(Card(key[0], key[2], kind, rows))
    chosen = []
    for kind, (_, most) in KINDS.items():
        by_task = [found[kind][task] for task in sorted(found[kind])]
        in_turn = [card for round_ in zip_longest(*by_task) for card in round_ if card is not None]
        chosen += in_turn[:most]
    return chosen


def embed(path: Path) -> tuple[str, bool] | None:
    """The picture as a data URI and whether it is tiny; None if it cannot be read.

    It is decoded and written again, so that only pixels reach the page.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            picture = opened.convert("RGB")
    except Exception:  # Pillow leaks six kinds of error; a page without a picture is still a page
        return None
    tiny = max(picture.size) <= TINY_PX
    kind = "PNG" if tiny else "JPEG"
    picture.thumbnail((EMBEDDED_PX, EMBEDDED_PX))
    buffer = BytesIO()
    picture.save(buffer, kind, **({"optimize": True} if tiny else {"quality": 85}))
    return f"data:image/{kind.lower()};base64,{b64encode(buffer.getvalue()).decode()}", tiny


def find_picture(name: str, folder: Path) -> Path:
    """A picture's path as recorded, or below the folder of the records."""
    path = Path(name)
    return path if path.exists() else folder / name


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " \N{HORIZONTAL ELLIPSIS}"


def _picture(row: Row, folder: Path) -> Markup:
    images = row.get("images") or []
    if not images:
        return tag("p", "no picture", class_="nopicture")
    found = embed(find_picture(images[0], folder))
    if found is None:
        return tag("p", f"picture not found: {Path(images[0]).name}", class_="nopicture")
    more = tag("p", f"first of {len(images)} pictures", class_="quiet") if len(images) > 1 else ""
    alt = f"Test picture to the question: {_short(row['question'])}"
    return join([tag("img", src=found[0], alt=alt, class_="tiny" if found[1] else None, loading="lazy"), more])


def _card(card: Card, look: Look, folder: Path) -> Markup:
    row = next(iter(card.rows.values()))
    replies = []
    for variant, reply in card.rows.items():
        right = bool(reply["is_correct"])
        said = f"failed: {reply['error']}" if reply.get("error") else reply["reply"] or "(no answer)"
        replies.append(
            tag(
                "li",
                tag("span", "\N{CHECK MARK}" if right else "\N{MULTIPLICATION X}", class_="mark", aria_hidden="true"),
                tag("span", variant, class_="name"),
                tag("span", "right: " if right else "wrong: ", class_="aloud"),
                tag("span", _short(said), class_="said"),
                class_="right" if right else "wrong",
            )
        )
    return tag(
        "article",
        tag("div", _picture(row, folder), class_="picture"),
        tag(
            "div",
            tag("p", card.task, class_="quiet task"),
            tag("p", _short(row["question"]), class_="question"),
            tag("p", "Right answer: ", tag("b", _short(row["answer"])), class_="answer"),
            tag("ul", *replies, class_="replies"),
        ),
        class_="card",
    )


def gallery(comparison: Comparison, look: Look) -> Markup:
    """The section's content; a sentence where there is nothing to show."""
    chosen = cards(comparison)
    if not chosen:
        return tag("p", "No question has been answered by every variant yet.", class_="quiet")
    alone = len(next(iter(chosen)).rows) == 1
    parts: list[Markup] = [
        tag(
            "p",
            RULE + (f" Replies of seed {comparison.seeds[0]}." if len(comparison.seeds) > 1 else ""),
            class_="quiet",
        )
    ]
    for kind, (heading, _) in KINDS.items():
        some = [card for card in chosen if card.kind == kind]
        if some:
            title = heading.removeprefix("All ").capitalize() if alone else heading
            parts += [
                tag("h3", title),
                tag("div", *(_card(card, look, comparison.folder) for card in some), class_="cards"),
            ]
    return join(parts)
