"""Where the records of an evaluation stand. Nothing heavy is imported here: a page and a progress bar ask too."""

from pathlib import Path

from yarbus.core.plugins import FILE_PREFIX
from yarbus.evaluation import own_file


def benchmark_folder(folder: Path, name: str, protocol: str, checkpoint: str = "final") -> Path:
    """Where replies and scores of one benchmark stand below a run's folder."""
    place = own_file.folder_name(name) if name.startswith(FILE_PREFIX) else name
    return folder / "evaluation" / checkpoint / f"{place}@{protocol}"
