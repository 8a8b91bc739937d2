"""Where the records of an evaluation stand. Nothing heavy is imported here: a page and a progress bar ask too."""

from pathlib import Path

from yarbus.core.own_names import own_name


def benchmark_folder(folder: Path, name: str, protocol: str, checkpoint: str = "final") -> Path:
    """Where replies and scores of one benchmark stand below a run's folder."""
    own = own_name(name)
    return folder / "evaluation" / checkpoint / f"{name if own is None else own.folder}@{protocol}"
