"""What a picture is compared with when an encoder classifies it without training: texts with a place for the class.

The first is the prompt of Zhang et al. (NeurIPS 2024). All of them together are the ensemble: a class is then the mean
of its texts. CLIP's and WiSE-FT's ensembles have eighty templates; these twenty are ours.
"""

import json
from pathlib import Path

from yarbus.core.errors import DataError

PLACE = "{}"
FILE = Path(__file__).parent / "prompts.json"


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a file: a JSON list of texts, each with one ``{}``."""
    fix = 'write a JSON list of texts with one {} each, ["A photo of a {}", ...]'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file of prompts", where=path, fix="check the path") from None
    except (OSError, ValueError) as error:
        raise DataError("cannot read prompts", where=path, why=str(error), fix=fix) from None
    if not isinstance(entries, list) or not entries:
        raise DataError("cannot read prompts", where=path, why="it holds no list of them", fix=fix)
    for entry in entries:
        if not isinstance(entry, str) or entry.count(PLACE) != 1:
            raise DataError("cannot read prompts", where=path, why=f"{entry!r} is no text with one {{}}", fix=fix)
    return tuple(entries)


PROMPTS = read_prompts(FILE)
