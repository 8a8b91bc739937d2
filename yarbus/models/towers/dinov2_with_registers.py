"""DINOv2 with registers: behind the class token stand some tokens that hold no patch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yarbus.models.towers.dinov2 import DINOV2, swiglu


def registers_and_swiglu(config: Any) -> Mapping[str, Any]:
    """The config says how many registers there are."""
    return {"prefix_tokens": 1 + config.num_register_tokens, **swiglu(config)}


DINOV2_WITH_REGISTERS = replace(DINOV2, config="Dinov2WithRegistersConfig", varies=registers_and_swiglu)
