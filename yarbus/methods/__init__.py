"""What can be attached to a model, one file per paper.

A method is a frozen dataclass that fits one or more places and knows no family. Not here: where a
library keeps its parts (``models``), learning rates (recipes). Example: ``covft.py``.
"""

from yarbus.core.table import Table

METHODS = {
    "vision": Table(
        "vision method",
        {
            "frozen": "yarbus.methods.whole:Frozen",
            "full": "yarbus.methods.whole:Full",
            "covft": "yarbus.methods.covft:CoVFT",
        },
    ),
    "projector": Table(
        "projector method", {"frozen": "yarbus.methods.whole:Frozen", "full": "yarbus.methods.whole:Full"}
    ),
    "language": Table(
        "language method", {"frozen": "yarbus.methods.whole:Frozen", "full": "yarbus.methods.whole:Full"}
    ),
    "head": Table("head method", {"none": "yarbus.methods.whole:NoHead"}),
}
"""place -> name -> class. One line per method and place."""


def __getattr__(name: str) -> type:
    """``from yarbus.methods import CoVFT`` without importing the other methods."""
    for table in METHODS.values():
        for entry in table:
            if table[entry].__name__ == name:
                return table[entry]
    raise AttributeError(f"module 'yarbus.methods' has no attribute '{name}'")
