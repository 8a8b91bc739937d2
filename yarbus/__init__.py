"""Yarbus lets the question reach the eyes of a vision-language model.

The Python surface: attach a method to each place of a model, look at the plan, train with the tools
you have, save, load, detach. Importing this imports neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

_SURFACE = {
    "attach": "yarbus.methods.assemble",
    "load_adapter": "yarbus.methods.assemble",
    "load": "yarbus.methods.assemble",
    "detach": "yarbus.models.attach",
    "save_adapter": "yarbus.models.save",
    "save": "yarbus.models.save",
    "plan": "yarbus.models.plan",
    "compare": "yarbus.studies.compare",
    "conflict": "yarbus.studies.conflict",
    "overhead": "yarbus.studies.overhead",
    "interpolate": "yarbus.methods.wise_ft",
    "export": "yarbus.studies.export",
    "audit": "yarbus.studies.audit",
}

__all__ = [
    "attach",
    "audit",
    "compare",
    "conflict",
    "detach",
    "export",
    "interpolate",
    "load",
    "load_adapter",
    "overhead",
    "plan",
    "save",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _SURFACE:
        raise AttributeError(f"module 'yarbus' has no attribute '{name}'")
    return getattr(import_module(_SURFACE[name]), name)


def __dir__() -> list[str]:
    return __all__
