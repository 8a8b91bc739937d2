"""Pictures chosen by rule and embedded as pixels."""

from base64 import b64decode
from collections import Counter
from io import BytesIO

from PIL import Image

from tests.report.synthetic import write_comparison
from yarbus.report.gallery import cards, embed, gallery
from yarbus.report.look import Look
from yarbus.report.runs import read_comparison


def test_cards_show_each_kind_take_tasks_in_turn_and_are_the_same_every_time(comparison_folder):
    chosen = cards(read_comparison(comparison_folder))
    assert Counter(card.kind for card in chosen) == {"disagree": 12, "right": 4, "wrong": 4}
    assert {card.task for card in chosen if card.kind == "disagree"} == {"read", "locate", "exist", "colour", "caption"}
    assert chosen == cards(read_comparison(comparison_folder))
    for card in chosen:
        verdicts = {row["is_correct"] for row in card.rows.values()}
        assert verdicts == {"disagree": {True, False}, "right": {True}, "wrong": {False}}[card.kind]


def test_a_tiny_picture_is_embedded_without_loss_and_a_large_one_is_reduced(tmp_path):
    tiny = Image.effect_noise((48, 48), 90).convert("RGB")
    tiny.save(tmp_path / "tiny.png")
    uri, is_tiny = embed(tmp_path / "tiny.png")
    again = Image.open(BytesIO(b64decode(uri.partition(",")[2])))
    assert is_tiny and again.tobytes() == tiny.tobytes()
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    uri, is_tiny = embed(tmp_path / "large.png")
    assert not is_tiny and uri.startswith("data:image/jpeg")
    assert max(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).size) == 480


def test_what_is_no_picture_never_reaches_the_page(tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    assert embed(tmp_path / "secret.txt") is None
    assert embed(tmp_path / "missing.png") is None


def test_a_missing_picture_is_said_by_name(tmp_path):
    folder = write_comparison(tmp_path, skills={"full": 0.0}, num_scenes=3)
    for path in (folder / "pictures").glob("*.png"):
        path.unlink()
    comparison = read_comparison(folder)
    assert "picture not found: 000" in gallery(comparison, Look(comparison.variants))
