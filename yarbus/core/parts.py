"""A base that is built from parts, and its name: a JSON mapping stands wherever the name of a base may.

So an adapter names a base from parts as it names any other, and whoever loads a base by name loads this one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarbus.core.errors import ConfigError
from yarbus.core.table import closest

PROJECTORS = ("mlp2",)
"""New projectors by name: ``mlp2`` is Linear, GELU, Linear."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model is built from."""

    vision_tower: str
    language_model: str
    projector: str = PROJECTORS[0]
    seed: int = 0
    """Draws the projector's first weights."""
    config: Mapping[str, Any] | None = None
    """Fields of the architecture that are not as the parts have them."""

    def __post_init__(self) -> None:
        if self.projector not in PROJECTORS:
            fix = f"use one of: {closest(self.projector, list(PROJECTORS))}"
            raise ConfigError(f"unknown projector '{self.projector}'", fix=fix)

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.vision_tower} + {self.language_model}"

    @property
    def name(self) -> str:
        """All that determines it, as one word; ``parts_of`` reads it."""
        values = {key: value for key, value in vars(self).items() if key != "config"}
        return json.dumps({**values, **({"config": dict(self.config)} if self.config else {})})


def is_parts(name: str) -> bool:
    """Whether a base of this name is built from parts."""
    return name.startswith("{")


def parts_of(name: str) -> Parts:
    """The parts that the name of a base lists; raises ``ConfigError`` where it lists something else."""
    try:
        return Parts(**json.loads(name))
    except (ValueError, TypeError) as error:
        why = str(error).removeprefix("Parts.__init__() ")
        fix = "name vision_tower and language_model, as adapter.json does, or the folder of a model"
        raise ConfigError("no base from parts", where=name, why=why, fix=fix) from None


def title_of(name: str) -> str:
    """What a person calls the base of that name."""
    return parts_of(name).title if is_parts(name) else name
