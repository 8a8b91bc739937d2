"""Opens a picture that somebody else made: upright, RGB, bounded, or refused by name.

The rules: transparency is laid on white, 16-bit grey is scaled (never clipped), the first frame of an
animation counts, EXIF turns the picture upright, and a damaged EXIF or colour profile is ignored.
"""

import stat
from difflib import get_close_matches
from functools import cache
from io import BytesIO
from pathlib import Path
from warnings import catch_warnings, simplefilter, warn

from PIL import Image, ImageOps

from yarbus.core.errors import DataError
from yarbus.data.stored import OpenPicture, Picture, StoredPicture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO")
"""Decoders that may run. EPS is not among them: Pillow would start Ghostscript on it."""
MAX_PIXELS = 89_478_485
"""A larger picture is refused before it is decoded (Pillow's own warning begins here)."""
MAX_BYTES = 256 * 2**20

_REAL_KINDS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the picture", "run git lfs pull"),
    (b"%!PS", "PostScript (EPS)", "convert it to PNG"),
    (b"%PDF", "a PDF", "convert it to PNG"),
    (b"\x1f\x8b", "gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"<!doctype html", "an HTML page, perhaps a failed download", "download it again"),
    (b"<html", "an HTML page, perhaps a failed download", "download it again"),
    (b"<svg", "an SVG drawing", "convert it to PNG"),
    (b"<?xml", "XML, perhaps an SVG drawing", "convert it to PNG"),
)


def _refuse(path: Picture, why: str, fix: str) -> DataError:
    return DataError("cannot use picture", where=path, why=why, fix=fix)


def _missing(path: Path) -> DataError:
    if path.is_symlink():
        return _refuse(path, "a link to nothing", "restore the file it points to")
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    lowered = {name.lower(): name for name in names}
    close = lowered.get(path.name.lower()) or next(iter(get_close_matches(path.name, names, n=1)), None)
    fix = f"did you mean {close}?" if close else "check the images folder"
    return _refuse(path, "no such file", fix)


def _read(path: Path) -> bytes:
    """The bytes of a regular file; a pipe or device is refused unopened, since opening could wait for ever."""
    try:
        facts = path.stat()
    except OSError:
        raise _missing(path) from None
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe or device"
        raise _refuse(path, f"{kind}, not a file", "give the path of a picture")
    if facts.st_size == 0:
        raise _refuse(path, "zero bytes", "restore the file")
    if facts.st_size > MAX_BYTES:
        raise _refuse(path, f"{facts.st_size:,} bytes, over {MAX_BYTES:,}", "shrink the picture")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refuse(path, str(error.strerror or error), "make the file readable") from None


def _unreadable(path: Picture, content: bytes, error: Exception) -> DataError:
    head = content[:256].lstrip().lower()
    for magic, kind, fix in _REAL_KINDS:
        if head.startswith(magic.lower()):
            return _refuse(path, f"the content is {kind}", fix)
    if content[4:8] == b"ftyp":
        return _refuse(path, "the content is HEIC, AVIF or a video", "convert it to PNG or JPEG")
    return _refuse(path, f"damaged or not a picture ({str(error) or type(error).__name__})", "replace the file")


@cache
def _warn_of_frames() -> None:
    """Once per process: a folder of animations is one piece of news, not one per file."""
    warn("some pictures have several frames or pages; the first of each is used", stacklevel=3)


def _to_rgb(image: Image.Image, path: Picture) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256, "L").convert("RGB")
    if image.mode in ("I", "F"):
        raise _refuse(path, f"pixels of type {image.mode} (32 bits) have no agreed white", "save it with 8 or 16 bits")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF comes as any of a dozen exception types; the picture itself is fine
        return image


def _finish(picture: OpenPicture) -> Image.Image:
    """What is left to do with a picture that is open: Pillow reads the pixels late."""
    try:
        picture.image.load()
    except Exception as error:  # as below
        raise _unreadable(picture, b"", error) from None
    return _to_rgb(_upright(picture.image), picture)


def open_image(path: str | Picture) -> Image.Image:
    """The picture as upright 8-bit RGB; ``DataError`` names the file, what it really is, and the fix."""
    if isinstance(path, OpenPicture):
        return _finish(path)
    if isinstance(path, StoredPicture):
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise _refuse(path, f"{len(content):,} bytes, over {MAX_BYTES:,}", "shrink the picture")
    else:
        path = Path(path)
        content = _read(path)
    try:
        with catch_warnings():
            simplefilter("ignore")  # the size is judged below, with the file's name
            image = Image.open(BytesIO(content), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height} pixels, over {MAX_PIXELS:,}")
            if image.format == "PNG":  # Pillow checks the checksum of pixel data only when asked
                image.verify()
                image = Image.open(BytesIO(content), formats=FORMATS)
            has_frames = getattr(image, "is_animated", False)
            image.load()
    except Image.DecompressionBombError as error:
        raise _refuse(path, str(error), "shrink the picture") from None
    except Exception as error:  # Pillow lets OSError, ValueError, SyntaxError, TypeError and more through, all nameless
        raise _unreadable(path, content, error) from None
    if has_frames:
        _warn_of_frames()
    return _to_rgb(_upright(image), path)
