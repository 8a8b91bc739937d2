"""What a schema finds wrong, as faults that name the key, the value, what is allowed and the line."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from yarbus.core.layers import Layer, place_of
from yarbus.core.table import closest
from yarbus.core.yaml import Fault, KeyPath, dotted


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _holder(annotation: Any) -> Any:
    """The one of the types that a value may have which has something inside."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _holder(get_args(annotation)[0])
    if origin in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _holder(next((kind for kind in kinds if _is_model(kind)), kinds[0]))
    return annotation


def _inner(annotation: Any, part: str | int) -> Any:
    """The type of what stands at ``part`` inside a value of the annotated type."""
    holder = _holder(annotation)
    return holder.model_fields[str(part)].annotation if _is_model(holder) else get_args(holder)[-1]


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Keys that the mapping at ``path`` may hold."""
    annotation: Any = model
    for part in path:
        annotation = _inner(annotation, part)
    holder = _holder(annotation)
    if _is_model(holder):
        return list(holder.model_fields)
    names = get_args(holder)[0]
    return list(get_args(names)) if get_origin(names) is Literal else []


def _shown(value: Any) -> str:
    text = repr(value)
    text = f"{text[:50]}..." if len(text) > 50 else text
    return f"{text}, as YAML reads yes, no, on and off" if isinstance(value, bool) else text


def _fault(error: ErrorDetails, model: type[BaseModel], layer: Layer) -> Fault:
    path, kind, message = error["loc"], error["type"], error["msg"].removeprefix("Value error, ")
    is_key = path[-1:] == ("[key]",)
    path = path[:-1] if is_key else path
    where, name = place_of(layer, path), dotted(path) if path else "the recipe"
    if kind == "extra_forbidden" or (is_key and kind == "literal_error"):
        return Fault(where, f"unknown key '{name}'", f"use one of: {closest(str(path[-1]), _keys(model, path[:-1]))}")
    if kind == "missing":
        return Fault(where, f"missing key '{name}'", f"add {path[-1]}")
    if is_key:
        return Fault(where, f"'{path[-1]}' cannot be a name in {dotted(path[:-1])}", "use letters, digits, - _ . +")
    if kind == "literal_error":
        allowed = [word.strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return Fault(where, f"{name} is {_shown(error['input'])}", f"use one of: {', '.join(allowed)}")
    if kind == "value_error":
        what, _, fix = message.partition("; fix: ")
        return Fault(where, f"{name}: {what}", fix)
    fix = message.replace("Input should be", "it should be").replace("dictionary", "mapping")
    return Fault(where, f"{name} is {_shown(error['input'])} ({type(error['input']).__name__})", fix)


def _line(fault: Fault) -> tuple[str, int]:
    file, _, line = fault.where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (fault.where, 0)


def complaints(error: ValidationError, model: type[BaseModel], layer: Layer) -> list[Fault]:
    """Every fault of a ValidationError, in the order of the lines they stand on."""
    faults = [_fault(details, model, layer) for details in error.errors(include_url=False)]
    return sorted(faults, key=_line)
