"""What an experiment is: a model, stages that train places of it, and what to measure.

Only the structure is checked here, without torch: a method's options belong to the method
(``yarbus.methods.build``), a benchmark's name to the benchmark table. A recipe that loads has every
value spelled out and can be written and read back as the same recipe.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from yarbus.core.complaints import complaints
from yarbus.core.errors import ConfigError
from yarbus.core.layers import Layer, lay, override
from yarbus.core.plugins import plugins
from yarbus.core.records import write_text
from yarbus.core.sections import (
    TEXT_CACHE,
    CompareSection,
    ModelSection,
    Name,
    QuestionSection,
    RecordSection,
    Section,
    Stage,
    Word,
)
from yarbus.core.table import closest
from yarbus.core.yaml import Document, dump_yaml, parse_yaml, raise_first, read_yaml


class Recipe(Section):
    """A whole experiment."""

    name: Name | None = None
    """Names the run's folder; the file's name if left out, where it can name one."""
    model: ModelSection
    question: QuestionSection = QuestionSection()
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """In order; each starts from what the one before left."""
    evaluation: list[Word] = []  # noqa: RUF012 - pydantic copies it
    """Benchmarks by name, or ``file:PATH``, ``classes:PATH`` (a folder of classes), ``dataset:PATH``."""
    record: RecordSection = RecordSection()
    """Gradients and routing to write down while training."""
    compare: CompareSection | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides new tensors, dropout and the order of rows."""

    @model_validator(mode="before")
    @classmethod
    def _seeds_a_projector(cls, value: Any) -> Any:
        """Spelled out here, so that another ``seed`` of a run leaves the base what it is."""
        model = value.get("model") if isinstance(value, dict) else None
        if isinstance(model, dict) and model.get("vision_tower") is not None and model.get("seed") is None:
            return {**value, "model": {**model, "seed": value.get("seed", 0)}}
        return value

    def resolved(self) -> dict[str, Any]:
        """Plain values, every default spelled out; ``load_recipe`` makes the same recipe of them."""
        return self.model_dump()


def recipe_files() -> dict[str, Path]:
    """Shipped recipes by name, the plug-ins' included."""
    folders = [plugin.recipes for plugin in plugins().values() if plugin.recipes is not None]
    folders.append(Path(str(files("yarbus"))) / "recipes")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _find(source: str | Path, beside: Path, where: str | None = None) -> Path:
    """The file of a recipe: a path with a suffix or a folder in it is a file, a bare word a shipped recipe."""
    text = str(source)
    if isinstance(source, Path) or "/" in text or "\\" in text or Path(text).suffix in (".yaml", ".yml"):
        return beside / Path(text).expanduser()
    if text not in (shipped := recipe_files()):
        fix = f"use a file, or one of: {closest(text, list(shipped))}"
        raise ConfigError(f"unknown recipe '{text}'", where=where, fix=fix)
    return shipped[text]


def _mapping(document: Document, where: object) -> Layer:
    if not isinstance(document.value, dict):
        raise ConfigError("not a recipe", where=where, why="the top is no mapping", fix="write keys such as model:")
    return Layer(document.value, document.places)


def _read(path: Path, chain: tuple[Path, ...] = ()) -> Layer:
    """A file laid on what it extends."""
    real = path.resolve()
    if real in chain:
        names = " -> ".join(entry.name for entry in (*chain, real))
        raise ConfigError("recipes extend each other in a circle", where=path, why=names, fix="remove one extends")
    return _extended(_mapping(read_yaml(path), path), path.parent, (*chain, real))


def _extended(layer: Layer, beside: Path, chain: tuple[Path, ...]) -> Layer:
    if "extends" not in layer.value:
        return layer
    where = layer.places.get(("extends",))
    below = layer.value["extends"]
    if not isinstance(below, str):
        raise ConfigError(f"extends is {below!r}", where=where, fix="name one recipe or file")
    lower = _read(_find(below, beside, where), chain)
    rest = {key: value for key, value in layer.value.items() if key != "extends"}
    lower_values = {key: value for key, value in lower.value.items() if key != "name"}
    return lay(Layer(lower_values, lower.places), Layer(rest, layer.places))


def _parse_override(text: str) -> tuple[str, Document]:
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is no override", fix="write key=value, for example seed=1")
    return path.strip(), parse_yaml(value, text, one_line=True)


def _overridden(layer: Layer, overrides: Iterable[str] | Mapping[str, Any]) -> Layer:
    if isinstance(overrides, Mapping):
        pairs = [(path, Document(value, {})) for path, value in overrides.items()]
    else:
        pairs = [_parse_override(text) for text in overrides]
    for path, value in pairs:
        layer = override(layer, path, value)
    return layer


def _checked(layer: Layer) -> Recipe:
    try:
        return Recipe.model_validate(layer.value)
    except ValidationError as error:
        raise_first(complaints(error, Recipe, layer))
        raise


def _is_name(text: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


def variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one variant's differences laid on it; it compares nothing itself."""
    variants = recipe.compare.variants if recipe.compare is not None else {}
    if name not in variants:
        raise ConfigError(f"unknown variant '{name}'", fix=f"use one of: {closest(name, list(variants)) or 'none'}")
    base = Layer({**recipe.resolved(), "compare": None}, {})
    try:
        return _checked(_overridden(base, variants[name]))
    except ConfigError as error:
        what = f"variant '{name}': {error.what}"
        raise ConfigError(what, where=error.where, why=error.why, fix=error.fix) from None


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] | Mapping[str, Any] = ()) -> Recipe:
    """The recipe of a shipped name, a file or a mapping, with ``key=value`` overrides by dotted path.

    ``ConfigError`` names file, line and key of the first fault and counts the others. Every variant is
    tried on, so that a comparison does not fail at its last one.
    """
    if isinstance(source, Mapping):
        layer = _extended(Layer(dict(source), {}), Path(), ())
        name = None
    else:
        path = _find(source, Path())
        layer, name = _read(path), path.stem if _is_name(path.stem) else None
    layer = _overridden(lay(Layer({}, {}), layer), overrides)
    recipe = _checked(layer)
    if recipe.name is None and name is not None:
        recipe = _checked(Layer({**layer.value, "name": name}, layer.places))
    for entry in recipe.compare.variants if recipe.compare is not None else ():
        variant(recipe, entry)
    return recipe


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe as YAML, from which alone the experiment starts again."""
    write_text(path, dump_yaml(recipe.resolved()))


_WEIGHTLESS = {"log_every", "checkpoint_every", "keep_checkpoints", "num_workers"}


def _weight_facts(stage: Stage) -> dict[str, Any]:
    """What determines a stage's weights. All rows are no fact: stages were hashed before they could have fewer."""
    values = stage.model_dump(exclude=_WEIGHTLESS)
    return {key: value for key, value in values.items() if (key, value) != ("fraction", 1.0)}


def stage_hash(recipe: Recipe, stage: str) -> str:
    """12 hex digits of all that determines the weights after a stage: model, question, seed, the stages up to it."""
    if stage not in recipe.stages:
        raise ConfigError(f"unknown stage '{stage}'", fix=f"use one of: {closest(stage, list(recipe.stages))}")
    names = list(recipe.stages)
    before = {name: _weight_facts(recipe.stages[name]) for name in names[: names.index(stage) + 1]}
    question = recipe.question.model_dump(exclude=set(TEXT_CACHE))
    facts = [recipe.model.model_dump(), question, recipe.seed, list(before.items())]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
