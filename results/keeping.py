"""How a study keeps what is finished: one commit of its own folders, and of nothing else."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


def commit(what: str, places: Sequence[Path], wanted: bool) -> None:
    """Commits what lies under ``places``; other changes, staged or not, stay as they are."""
    if not wanted:
        return
    git, paths = ["git", "-C", str(places[0])], [str(place) for place in places]
    subprocess.run([*git, "add", *paths], check=True)
    if subprocess.run([*git, "diff", "--cached", "--quiet", "--", *paths]).returncode:
        subprocess.run([*git, "commit", "--only", "-q", "-m", what, "--", *paths], check=True)
