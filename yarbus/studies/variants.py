"""Variants named on one line: ``frozen,full,covft[merged,num_experts=8],lora[rank=64]`` for a place.

A name is one of the recipe's own variants where it has one of that name, else a method with options in brackets. Where
it could be both, it is the variant only if that changes the place: ``--language frozen`` does not mean a frozen tower.
A projector replaces the one that earlier stages train, too: variants with the same one begin from one align stage.
``choose`` gives the recipe with those that are wanted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from yarbus.core.errors import ConfigError
from yarbus.core.places import PLACES
from yarbus.core.recipe import Recipe, load_recipe
from yarbus.core.table import closest
from yarbus.core.yaml import parse_yaml

Changes = dict[str, Any]
"""Dotted path -> value."""
ENTRY = re.compile(r"([^\[\]=,\s]+)\s*(?:\[(.*)\])?", re.DOTALL)


def split_names(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _words_of(annotation: Any) -> list[str]:
    """The words that an annotation lets stand, ``Literal["a", "b"] | None`` and ``Annotated`` included."""
    kind = get_origin(annotation)
    if kind is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    if kind in (Annotated, Union, UnionType):
        return [word for inner in get_args(annotation) for word in _words_of(inner)]
    return []


def _option_of(word: str, place: str, method: str) -> str:
    """The one option of which a bare word is a value."""
    from yarbus.methods import METHODS

    cls = METHODS[place][method]
    hints = get_type_hints(cls, include_extras=True)
    known = {one.name: words for one in fields(cls) if (words := _words_of(hints[one.name]))}
    found = [option for option, words in known.items() if word in words]
    if len(found) == 1:
        return found[0]
    if found:
        fix = f"write one of: {', '.join(f'{option}={word}' for option in found)}"
        raise ConfigError(f"'{word}' may be more than one option of '{method}'", why=" or ".join(found), fix=fix)
    named = "; ".join(f"{option}: {' | '.join(words)}" for option, words in known.items())
    raise ConfigError(
        f"'{word}' is no value of an option of '{method}'",
        why=named or "none of its options takes a word",
        fix="write option=value",
    )


def _options(text: str, place: str, method: str) -> dict[str, Any]:
    """``merged,num_experts=8`` as options."""
    found: dict[str, Any] = {}
    for part in split_names(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            key, value = _option_of(part, place, method), part
        if key == "method":
            fix = f"write the method in front: {value or 'name'}[...]"
            raise ConfigError(f"'{method}' cannot have another method in its brackets", where=f"[{text}]", fix=fix)
        if key in found:
            raise ConfigError(f"option '{key}' of '{method}' stands twice", where=f"[{text}]", fix="remove one")
        found[key] = parse_yaml(value, part, one_line=True).value
    return found


def safe_name(text: str) -> str:
    """The text as a name of a folder: ``covft[merged,num_experts=8]`` is ``covft-merged-num_experts-8``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._")


def _meet(path: str, other: str) -> bool:
    """One is the other, or lies below it."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _entry(text: str, recipe: Recipe, place: str, last: str) -> tuple[str, Changes]:
    """One name's variant: its own name, and what it changes."""
    from yarbus.methods import METHODS

    own = recipe.compare.variants if recipe.compare is not None else {}
    path = f"stages.{last}.train.{place}"
    if text in own and (text not in METHODS[place] or any(_meet(path, one) for one in own[text])):
        return text, dict(own[text])
    parts = ENTRY.fullmatch(text)
    if parts is None:
        raise ConfigError(
            f"'{text}' is no name of a method", where=f"--{place}", fix="write name or name[option=value]"
        )
    method, options = parts.groups()
    if method not in METHODS[place]:
        fix = f"use one of: {closest(method, [*METHODS[place], *own])}"
        raise ConfigError(f"unknown {place} method or variant '{method}'", where=f"--{place}", fix=fix)
    spec = {"method": method, **_options(options or "", place, method)}
    return safe_name(text), {**_earlier(recipe, place, spec), path: spec}


def _earlier(recipe: Recipe, place: str, spec: dict[str, Any]) -> Changes:
    """The same projector in the earlier stages that train one: it stays where it is attached first.

    A frozen projector keeps what they trained.
    """
    if place != "projector" or spec["method"] == "frozen":
        return {}
    *earlier, _ = recipe.stages
    trained = {name: recipe.resolved()["stages"][name]["train"].get(place) for name in earlier}
    return {
        f"stages.{name}.train.{place}": spec
        for name, held in trained.items()
        if held is not None and held["method"] != "frozen" and held != spec
    }


def _together(parts: Sequence[tuple[str, Changes]]) -> tuple[str, Changes]:
    name, changes = "+".join(part for part, _ in parts), Changes()
    for part, some in parts:
        for path, value in some.items():
            if changes.setdefault(path, value) != value:
                raise ConfigError(f"'{name}' sets {path} twice", why=f"'{part}' sets it too", fix="name other variants")
    return name, changes


def variants_of(recipe: Recipe, places: Mapping[str, str]) -> dict[str, Changes]:
    """Variants for ``compare``: of one place those named there, of several every combination (``lora+full``).

    Raises:
        ConfigError: a name is neither a variant nor a method, an option cannot be meant, or two variants share a name.
    """
    last = list(recipe.stages)[-1]
    named = []
    for place in sorted(places, key=PLACES.index):
        names = split_names(places[place])
        if not names:
            raise ConfigError("no variant named", where=f"--{place}", fix="name methods, such as frozen,full")
        named.append([_entry(name, recipe, place, last) for name in names])
    found: dict[str, Changes] = {}
    for parts in product(*named):
        name, changes = _together(parts)
        if name in found:
            raise ConfigError(
                f"two variants are called '{name}'", fix="name each once, or in the recipe's compare.variants"
            )
        found[name] = changes
    return found


def _with(recipe: Recipe, variants: Mapping[str, Mapping[str, Any]]) -> Recipe:
    values = recipe.resolved()
    return load_recipe({**values, "compare": {**(values["compare"] or {}), "variants": variants}})


def choose(recipe: Recipe, variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None) -> Recipe:
    """The recipe with the variants to compare: some of its own by name, or others by their differences."""
    if isinstance(variants, Mapping):
        return _with(recipe, {name: dict(paths) for name, paths in variants.items()})
    own = recipe.compare.variants if recipe.compare is not None else {}
    if not own:
        raise ConfigError("the recipe names no variants", fix="add compare.variants, or pass them")
    names = list(own) if variants is None else list(variants)
    for name in names:
        if name not in own:
            raise ConfigError(f"unknown variant '{name}'", fix=f"use one of: {closest(name, list(own))}")
    if not names:
        raise ConfigError("no variant to compare", fix=f"use some of: {', '.join(own)}")
    return _with(recipe, {name: own[name] for name in names})
