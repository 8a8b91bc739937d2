"""What can be attached to a model, one file per paper.

A method is a frozen dataclass that fits one or more places and knows no family. Not here: where a
library keeps its parts (``models``), learning rates (recipes). Example: ``covft.py``.
"""

from functools import partial
from typing import Any, TypeVar

from yarbus.core.plugins import brought_methods
from yarbus.core.table import Table

M = TypeVar("M")


def _table(place: str, entries: dict[str, str]) -> Table:
    return Table(f"{place} method", entries, more=partial(brought_methods, place))


METHODS = {
    "vision": _table(
        "vision",
        {
            "frozen": "yarbus.methods.whole:Frozen",
            "full": "yarbus.methods.whole:Full",
            "bitfit": "yarbus.methods.bitfit:BitFit",
            "layernorm": "yarbus.methods.layernorm:LayerNorm",
            "lora": "yarbus.methods.lora:LoRA",
            "vpt": "yarbus.methods.vpt:VPT",
            "svpt": "yarbus.methods.svpt:SVPT",
            "covft": "yarbus.methods.covft:CoVFT",
            "qavit": "yarbus.methods.qavit:QAViT",
        },
    ),
    "projector": _table(
        "projector",
        {
            "frozen": "yarbus.methods.whole:Frozen",
            "full": "yarbus.methods.whole:Full",
            "qmoe": "yarbus.methods.qmoe:QMoE",
        },
    ),
    "language": _table(
        "language",
        {
            "frozen": "yarbus.methods.whole:Frozen",
            "full": "yarbus.methods.whole:Full",
            "lora": "yarbus.methods.lora:LoRA",
        },
    ),
    "head": _table(
        "head",
        {
            "none": "yarbus.methods.whole:NoHead",
            "carpe": "yarbus.methods.carpe:CARPE",
            "levi": "yarbus.methods.levi:LEVI",
        },
    ),
}
"""place -> name -> class. One line per method and place; what plug-ins bring comes after."""


def declare(method: type[M]) -> type[M]:
    """Makes a method of your own known under its ``name`` in each of its ``places``; works as a decorator too.

    A plug-in that names it under ``methods`` does the same for every process, the command line's included.
    """
    own: Any = method
    for place in own.places:
        METHODS[place].add(own.name, own)
    return method


def __getattr__(name: str) -> type:
    """``from yarbus.methods import CoVFT`` without importing the other methods."""
    for table in METHODS.values():
        if (entry := table.name_of(name)) is not None:
            return table[entry]
    raise AttributeError(f"module 'yarbus.methods' has no attribute '{name}'")
