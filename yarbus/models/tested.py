"""What was tested of each family: the record of the behaviour matrix, which ``make matrix`` writes.

A cell is one method on one small random model of the family: the checks of ``tests/matrix`` that hold, those that the
unchanged model fails as well ("base cannot"), or why the method refuses the model.
"""

from pathlib import Path
from typing import Any

from yarbus.core.records import read_record

RECORD = Path(__file__).with_name("tested.json")


def tested() -> dict[str, Any]:
    """Model -> its config, tower, versions, and case -> outcome."""
    return read_record(RECORD)["models"]


def tested_of(config: str) -> list[dict[str, Any]]:
    """What was tested of one family: a line per small model, with the sums over all methods."""
    lines = []
    for name, model in tested().items():
        if model["config"] != config:
            continue
        cells = model["methods"].values()
        lines.append(
            {
                "model": name,
                "tower": model["tower"],
                "methods": sum("refused" not in cell for cell in cells),
                "refused": sum("refused" in cell for cell in cells),
                "holds": sum(cell.get("holds", 0) for cell in cells),
                "base_cannot": sum(len(cell.get("base_cannot", ())) for cell in cells),
                "fails": sum(len(cell.get("fails", ())) for cell in cells),
                "transformers": model["transformers"],
                "torch": model["torch"],
            }
        )
    return lines
