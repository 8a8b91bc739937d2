"""A study on the command line: what every one can be told, and one commit per finished part."""

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path


def study_parser(about: str | None, work: Path) -> argparse.ArgumentParser:
    """The options of every study; ``about`` is its module's docstring."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time, one thread each")
    parser.add_argument("--work", type=Path, default=work, help="folder of the runs")
    parser.add_argument("--no-commit", action="store_true", help="leave committing to you")
    return parser


def commit(what: str, places: Sequence[Path], wanted: bool) -> None:
    """Commits what lies under ``places``; other changes, staged or not, stay as they are."""
    if not wanted:
        return
    git, paths = ["git", "-C", str(places[0])], [str(place) for place in places]
    subprocess.run([*git, "add", *paths], check=True)
    if subprocess.run([*git, "diff", "--cached", "--quiet", "--", *paths]).returncode:
        subprocess.run([*git, "commit", "--only", "-q", "-m", what, "--", *paths], check=True)
