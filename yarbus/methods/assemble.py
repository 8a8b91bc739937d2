"""From words to attached methods: what recipes, adapters and the Python surface go through."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from yarbus.core.errors import ConfigError
from yarbus.core.table import closest
from yarbus.methods import METHODS
from yarbus.models import attach as attaching
from yarbus.models import save
from yarbus.models.attachment import Method
from yarbus.models.question import Question

Spec = str | Mapping[str, Any] | Method


def build(place: str, spec: Spec) -> Method:
    """The method that a recipe names for a place: ``covft`` or ``{method: covft, num_experts: 8}``.

    Raises ``ConfigError`` for an unknown place, method, option or value, naming the closest known one.
    """
    if isinstance(spec, Method):
        return spec
    if place not in METHODS:
        raise ConfigError(f"unknown place '{place}'", fix=f"use one of: {closest(place, list(METHODS))}")
    options = {"method": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("method", None)
    if name is None:
        raise ConfigError(f"place '{place}' names no method", fix=f"add method: {' | '.join(METHODS[place])}")
    cls = METHODS[place][name]
    known = [field.name for field in fields(cls)]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"unknown option '{option}' of method '{name}'",
                fix=f"use one of: {closest(option, known)}" if known else f"'{name}' has no options",
            )
    cls.check(options)
    return cls(**options)


def build_all(places: Mapping[str, Spec]) -> dict[str, Method]:
    """``build`` for each place."""
    return {place: build(place, spec) for place, spec in places.items()}


def attach(
    model: nn.Module,
    processor: Any,
    *,
    vision: Spec | None = None,
    projector: Spec | None = None,
    language: Spec | None = None,
    head: Spec | None = None,
    text_encoder: str | None = None,
    question: Question | None = None,
    keep_base: bool = False,
) -> tuple[nn.Module, Any]:
    """Attaches a method to each place named; a place not named is frozen. Changes both in place and returns them.

    Methods are values (``CoVFT(num_experts=4)``) or words (``"covft"``). ``text_encoder`` is a BERT-like model by
    name or folder, or ``language_embeddings``; only methods that read the question need it. ``keep_base`` keeps
    copies of what trains in place, so that ``detach`` can restore the base after training.

    Raises ``ConfigError`` if something is attached already, or a method does not fit.
    """
    named = {"vision": vision, "projector": projector, "language": language, "head": head}
    places = build_all({place: spec for place, spec in named.items() if spec is not None})
    return attaching.attach(model, processor, places, text_encoder=text_encoder, question=question, keep_base=keep_base)


def load_adapter(model: nn.Module, processor: Any, folder: str | Path) -> tuple[nn.Module, Any]:
    """Attaches what ``save_adapter`` wrote to the base it was made for.

    Raises ``MismatchError`` (exit 78) naming both fingerprints for another base, or the first tensor that differs.
    """
    return save.load_adapter(model, processor, Path(folder), build_all)


def load(folder: str | Path, **kwargs: Any) -> tuple[nn.Module, Any]:
    """The full model that ``save`` wrote, by folder or hub name; a missing or unexpected tensor is an error.

    ``kwargs`` go to ``from_pretrained``: ``dtype``, ``device_map``, and for a hub name ``revision`` or ``token``.
    """
    return save.load(Path(folder), build_all, **kwargs)
