"""A recipe is written as its difference from another: layers, laid one on the other.

A mapping laid on a mapping merges key by key; anything else replaces. Four rules of meaning on top:
a mapping with ``method`` replaces one with another method (its options belong to the other), a model
with a ``base`` one from parts and the other way round (an architecture belongs to its model), of two
keys that exclude each other the upper layer's stays, and a learning rate's number is its ``peak``
wherever it meets the mapping form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarbus.core.errors import ConfigError
from yarbus.core.yaml import Document, KeyPath, dotted

EXCLUSIVE = ({"steps", "epochs"},)
"""Setting one of a pair in an upper layer drops the other from the layers below."""
RATE_KEYS = frozenset({"peak", "warmup_fraction", "schedule", "block_decay", "frozen_fraction"})
"""Of a learning rate that is written as a mapping (``core.sections.GroupRate``)."""


@dataclass(frozen=True)
class Layer:
    """Values with the place each key was written."""

    value: dict[str, Any]
    places: Mapping[KeyPath, str]


def _spell_out_stage(stage: Any) -> Any:
    if not isinstance(stage, dict) or not isinstance(stage.get("train"), dict):
        return stage
    methods = stage["train"].items()
    return {**stage, "train": {place: {"method": m} if isinstance(m, str) else m for place, m in methods}}


def spell_out(value: Any) -> Any:
    """The values with every method of ``stages.*.train`` as a mapping: ``frozen`` means ``{method: frozen}``."""
    if not isinstance(value, dict) or not isinstance(value.get("stages"), dict):
        return value
    return {**value, "stages": {name: _spell_out_stage(stage) for name, stage in value["stages"].items()}}


def _as_rates(one: Any, other: Any) -> Any:
    """A number that meets the mapping form of a learning rate in that form."""
    is_number = isinstance(one, int | float) and not isinstance(one, bool)
    return {"peak": one} if is_number and isinstance(other, dict) and other and other.keys() <= RATE_KEYS else one


def _is_other_model(below: dict[str, Any], above: dict[str, Any]) -> bool:
    """One names a base, the other parts to build a model from."""
    kinds = [("base" in one, not one.keys().isdisjoint(("vision_tower", "language_model"))) for one in (below, above)]
    return sorted(kinds) == [(False, True), (True, False)]


def merge(below: Any, above: Any) -> Any:
    """``above`` laid on ``below``."""
    if isinstance(below, dict) and "method" in below and isinstance(above, str):
        above = {"method": above}
    below, above = _as_rates(below, above), _as_rates(above, below)
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "method" in above and "method" in below and above["method"] != below["method"]:
        return above
    if _is_other_model(below, above):
        return above
    dropped = {
        key
        for pair in EXCLUSIVE
        for key in pair
        if key in below and above.get(key) is None and any(above.get(other) is not None for other in pair - {key})
    }
    merged = {key: value for key, value in below.items() if key not in dropped}
    for key, value in above.items():
        merged[key] = merge(below[key], value) if key in below else value
    return merged


def lay(below: Layer, above: Layer) -> Layer:
    """One layer on another; a key's place is where it was last written."""
    return Layer(spell_out(merge(below.value, above.value)), {**below.places, **above.places})


def _index(values: list[Any], key: str, name: str) -> int:
    if not key.isdecimal() or int(key) >= len(values):
        raise ConfigError(f"no entry '{key}'", where=name, fix=f"use a number from 0 to {len(values) - 1}")
    return int(key)


def _with(below: Any, keys: list[str], value: Any, name: str) -> Any:
    """``below`` with the value laid at a dotted path; a number reaches into a list."""
    if not keys:
        return merge(below, value)
    key, *rest = keys
    if isinstance(below, list):
        at = _index(below, key, name)
        return [*below[:at], _with(below[at], rest, value, name), *below[at + 1 :]]
    known = below if isinstance(below, dict) else {}
    return merge(below, {key: _with(known.get(key), rest, value, name)})


def override(layer: Layer, path: str, value: Document) -> Layer:
    """``path=value`` laid on a layer."""
    keys = path.split(".")
    if not all(keys):
        raise ConfigError(f"'{path}' is not a dotted path", fix="write key=value, for example seed=1")
    where = value.places.get((), f"{path}={value.value}")
    changed = spell_out(_with(layer.value, keys, value.value, where))
    prefix = tuple(int(key) if key.isdecimal() else key for key in keys)
    written = {(*prefix, *inner): where for inner in value.places} | {prefix: where}
    return Layer(changed, {**layer.places, **written})


def place_of(layer: Layer, path: KeyPath) -> str:
    """Where a key was written, else where the nearest thing around it was."""
    for length in range(len(path), -1, -1):
        if path[:length] in layer.places:
            return layer.places[path[:length]]
    return dotted(path) if path else "recipe"
