"""Pictures that are no file: inside a data set's own file and read when needed, or handed over opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yarbus.core.errors import DataError


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """Stands where a picture's path stands; nothing is unpacked to disk."""

    parent: Path
    """The data set."""
    name: str
    """Split and row."""
    row: int
    column: str
    rows: Any = field(compare=False, repr=False)
    """The data set with its pictures undecoded: ``rows[row][column]`` is ``{"bytes": ..., "path": ...}``."""

    def read_bytes(self) -> bytes:
        """The encoded picture, as it was stored."""
        content = (self.rows[self.row][self.column] or {}).get("bytes")
        if not content:
            fix = "save the data set with its pictures: dataset.save_to_disk(FOLDER)"
            raise DataError("cannot use picture", where=self, why="the row holds no bytes of one", fix=fix)
        return bytes(content)

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"


@dataclass(frozen=True, slots=True)
class OpenPicture:
    """A picture that another program has opened already."""

    parent: Path
    """The data set."""
    name: str
    """Split, row, and which picture of the row: no two pictures share parent and name."""
    image: Any = field(compare=False, repr=False)
    """As Pillow has it, in any mode."""

    def read_bytes(self) -> bytes:
        """Its pixels: no file is behind it."""
        return self.image.tobytes()

    def __str__(self) -> str:
        return f"{self.parent}/{self.name}"


Picture = Path | StoredPicture | OpenPicture
"""Where a picture is."""
