"""Pictures are embedded once and within a budget."""

from base64 import b64decode
from io import BytesIO

from PIL import Image

from tests.report.synthetic_diagnosis import make_pictures
from yarbus.report.thumbnails import Album, thumbnail


def test_a_picture_is_embedded_once_however_often_it_is_shown(tmp_path):
    first, second = make_pictures(tmp_path, 2)
    album = Album(tmp_path)
    assert [album.add(first), album.add(second), album.add(first)] == ["t0", "t1", "t0"]
    assert album.add(first, 32) == "t2"
    assert album.style().count("background-image:url(data:image/jpeg;base64,") == 3


def test_a_large_picture_is_reduced(tmp_path):
    Image.new("RGB", (1280, 640)).save(tmp_path / "large.jpg")
    album = Album(tmp_path)
    album.add("large.jpg")
    data = album.style().partition("base64,")[2].partition(")")[0]
    assert Image.open(BytesIO(b64decode(data))).size == (64, 32)


def test_pictures_over_the_budget_are_left_out_and_counted(tmp_path):
    pictures = make_pictures(tmp_path, 5)
    album = Album(tmp_path, budget_bytes=2500)
    found = [album.add(picture) for picture in pictures]
    assert None in found and found[0] == "t0"
    assert album.num_left_out == found.count(None)
    assert len(album.style()) < 2700


def test_what_is_no_picture_never_reaches_the_page(tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    album = Album(tmp_path)
    assert [album.add(name) for name in (None, "", "missing.png", "secret.txt")] == [None] * 4
    assert (album.style(), album.num_left_out) == ("", 0)


def test_a_sample_without_a_picture_has_an_empty_frame_with_words():
    assert thumbnail(None, "<x>") == '<span class="thumb" role="img" aria-label="&lt;x&gt;"></span>'
