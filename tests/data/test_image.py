import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from yarbus.core.errors import DataError
from yarbus.data import image as opener
from yarbus.data.image import MAX_PIXELS, open_image
from yarbus.data.stored import OpenPicture

GREY = (128, 128, 128)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_image(path)
    assert path.name in str(caught.value)
    assert caught.value.exit_code == 65
    return str(caught.value)


def noise(size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header_only_png(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.67])
def test_a_picture_that_was_cut_is_refused(tmp_path, kind, kept):
    path = tmp_path / f"a.{kind}"
    noise().save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert ("zero bytes" in refused(path)) == (kept == 0.0)


def test_noise_and_a_flipped_checksum_are_refused(tmp_path):
    (tmp_path / "noise.png").write_bytes(os.urandom(500))
    assert "not a picture" in refused(tmp_path / "noise.png")
    noise().save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    start = content.index(b"IDAT")
    content[start + 4 + int.from_bytes(content[start - 4 : start])] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    assert "damaged" in refused(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_of_the_same_colour(tmp_path, mode):
    colour = (255, 255, 255) if mode == "1" else GREY
    kind = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    plain = Image.new("RGB", (8, 8), colour)
    stored = plain.quantize(4) if mode == "P" else plain.convert(mode)
    stored.save(tmp_path / f"a.{kind}", quality=100)
    opened = open_image(tmp_path / f"a.{kind}")
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened).astype(int) - colour[0]).max() <= 2


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "half.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "half.png").getpixel((0, 0)) == (127, 127, 127)
    assert open_image(tmp_path / "palette.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (32768, 128), (65535, 255)])
def test_sixteen_bits_are_scaled(tmp_path, kind, value, grey):
    Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(tmp_path / f"a.{kind}")
    assert open_image(tmp_path / f"a.{kind}").getpixel((0, 0)) == (grey,) * 3


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_thirty_two_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 7, dtype=dtype)).save(tmp_path / "a.tif")
    assert "no agreed white" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_the_first_frame_counts_and_one_warning_says_so(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    opener._warn_of_frames.cache_clear()
    with pytest.warns(UserWarning, match="several frames"):
        assert open_image(tmp_path / f"a.{kind}").getpixel((0, 0)) == (255, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_picture_is_turned_upright(tmp_path, kind, orientation):
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 8))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes it
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{kind}", exif=exif, quality=95)
    opened = open_image(tmp_path / f"a.{kind}")
    assert opened.size == (32, 16)
    assert opened.getpixel((4, 3))[0] > 200 and opened.getpixel((24, 12))[0] < 50


def test_damaged_metadata_is_ignored(tmp_path):
    noise().save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    noise().save(
        tmp_path / "icc.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:50]
    )
    for name in ("exif.jpg", "icc.png"):
        assert open_image(tmp_path / name).size == (64, 64)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 900), (900, 1)])
def test_any_shape_opens(tmp_path, size):
    Image.new("RGB", size, GREY).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").size == size


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (65_500, 65_500), (11_000, 11_000)])
def test_a_picture_that_is_too_large_is_refused_by_its_header(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(header_only_png(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(tmp_path / "a.png")
    assert "pixels" in message and "shrink" in message
    assert width * height > MAX_PIXELS


def test_a_bitmap_with_an_absurd_header_is_refused(tmp_path):
    size = struct.pack("<IiiHH", 40, 2**31 - 1, 2**31 - 1, 1, 24)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + size + b"\0" * 24)
    refused(tmp_path / "a.bmp")


def test_the_content_decides_not_the_name(tmp_path):
    for kind, name in (("png", "a.jpg"), ("gif", "b.jpg"), ("png", "noextension"), ("jpeg", "c.eps")):
        noise().save(tmp_path / name, format=kind)
        assert open_image(tmp_path / name).size == (64, 64)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"junk after the end")
    assert open_image(tmp_path / "a.jpg").size == (64, 64)


@pytest.mark.parametrize(
    ("content", "kind", "fix"),
    [
        (b"<!DOCTYPE html><html>404", "HTML", "download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "convert"),
        (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><svg>&a;</svg>', "SVG", "convert"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", "convert"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript", "convert"),
        (b"%PDF-1.7", "PDF", "convert"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, monkeypatch, content, kind, fix):
    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    (tmp_path / "a.jpg").write_bytes(content)
    message = refused(tmp_path / "a.jpg")
    assert kind in message and fix in message


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone")
    assert "a folder" in refused(tmp_path / "folder.png")
    assert "pipe or device" in refused(tmp_path / "pipe.png")
    assert "pipe or device" in refused(tmp_path / "zero.png")
    assert "link to nothing" in refused(tmp_path / "dangling.png")


def test_a_missing_picture_is_answered_with_the_nearest(tmp_path):
    noise().save(tmp_path / "Photo.png")
    assert "did you mean Photo.png?" in refused(tmp_path / "photo.png")
    assert "check the images folder" in refused(tmp_path / "zzz" / "a.png")


@pytest.mark.parametrize(
    "name", ["ü – 図.png", "😀.png", 'it\'s "so".png', "100%20.png", "a#b.png", "x" * 200 + ".png"]
)
def test_any_name_opens(tmp_path, name):
    noise().save(tmp_path / name)
    assert open_image(tmp_path / name).size == (64, 64)


@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), data=st.data())
@settings(max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_picture_opens_or_is_refused_by_name(tmp_path, kind, data):
    path = tmp_path / "a.bin"
    noise(16).save(path, format=kind)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert open_image(path).mode == "RGB"
    except DataError as error:
        assert "a.bin" in str(error)


def test_a_picture_that_is_open_already_becomes_rgb_by_the_same_rules(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    for mode in ("RGB", "L", "1", "P", "LA", "CMYK", "I;16"):
        opened = open_image(OpenPicture(Path("data/test"), "0:0", Image.new(mode, (4, 4))))
        assert opened.mode == "RGB" and opened.getpixel((0, 0)) == ((255,) * 3 if mode in ("LA", "CMYK") else (0, 0, 0))
    assert open_image(OpenPicture(Path("data"), "0:0", clear)).tobytes() == open_image(tmp_path / "clear.png").tobytes()


def test_a_picture_that_is_open_but_damaged_is_refused_by_its_place(tmp_path):
    path = tmp_path / "a.jpg"
    noise().save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as image, pytest.raises(DataError, match="cannot use picture: data/test/7:0 - damaged"):
        open_image(OpenPicture(Path("data/test"), "7:0", image))
