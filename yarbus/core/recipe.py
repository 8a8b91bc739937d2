"""What an experiment is: a model, stages that train places of it, and what to measure.

Only the structure is checked here, without torch: a method's options belong to the method
(``yarbus.methods.build``), a benchmark's name to the benchmark table. A recipe that loads has every
value spelled out and can be written and read back as the same recipe.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)

from yarbus.core.complaints import complaints
from yarbus.core.errors import ConfigError
from yarbus.core.layers import Layer, lay, override
from yarbus.core.places import GROUPS, PLACES
from yarbus.core.plugins import plugins
from yarbus.core.records import write_text
from yarbus.core.table import closest
from yarbus.core.yaml import Document, dump_yaml, parse_yaml, raise_first, read_yaml

if TYPE_CHECKING:  # dict is invariant in its keys: for readers of a checked recipe they are text
    Place: TypeAlias = str
    Group: TypeAlias = str
else:
    Place, Group = Literal[PLACES], Literal[GROUPS]

# Stages, variants and recipes become folders of a run.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")]
Word = Annotated[str, StringConstraints(min_length=1)]
Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
WarmUp = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["cosine", "linear", "constant"]
Count = Annotated[int, Field(ge=1)]


def _has_method(spec: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(spec.get("method"), str):
        raise ValueError("no method named; fix: write a method's name, or {method: NAME, option: value}")
    return spec


Method = Annotated[dict[str, Any], AfterValidator(_has_method)]


class Section(BaseModel):
    """A part of a recipe: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelSection(Section):
    """The vision-language model that everything starts from."""

    base: Word
    """Hub id, folder, or ``plug-in:name``."""
    config: dict[str, Any] | None = None
    """Architecture, as the model's config.json has it, so that ``plan`` needs no weights."""


class QuestionSection(Section):
    """How the question reaches the eyes."""

    text_encoder: Word | None = None
    """A BERT-like model by hub id, folder or ``plug-in:name``, or ``language_embeddings``; needed to route by text."""
    train_turns: Literal["sampled_turn", "all_human"] = "sampled_turn"
    """Context of a training row: one of its questions, drawn anew at each visit, or all of them."""
    chat_turns: Literal["last", "upto_current"] = "last"
    """Context of a chat: the last question, or all up to it."""
    rules: Literal["ours", "official"] = "ours"
    """Which words of a question count: without image tags and answer-format lines, or as the official code does."""
    max_tokens: Count = 128
    """Longest context in tokens of the text encoder."""


class DataSection(Section):
    """One source of training rows."""

    source: Word
    path: Word
    images: Word | None = None
    """Folder of the pictures; None: the folder of ``path``."""
    task: Word | None = None
    """Only rows of this task; a file whose rows name none is all of it."""
    fraction: Share = 1.0
    """Share of its rows, the same each time and nested: a smaller share is part of a larger one."""


class GroupRate(Section):
    """The learning rate of one group where a number does not say it all."""

    peak: Rate
    """Highest rate of its schedule; a number in place of the mapping is this alone."""
    warmup_fraction: WarmUp | None = None
    """Share of the steps in which it rises from 0; null: as the stage says."""
    schedule: Schedule | None = None
    """How it goes on after that; null: as the stage says."""
    block_decay: Share = 1.0
    """A tensor of the tower trains at ``peak * block_decay ** k``, with ``k`` the number of executed vision blocks
    behind it: the last executed block at ``peak``, block i of n at ``peak * block_decay ** (n - 1 - i)``, what lies
    before the blocks (embeddings, the norm after them) at ``peak * block_decay ** n``, what lies behind them or outside
    of the tower at ``peak``. Below 1 it needs a group that holds tensors of blocks."""


_NUMBER: TypeAdapter[float] = TypeAdapter(Rate, config=ConfigDict(strict=True))


def _number_or_mapping(value: Any, handler: Callable[[Any], Any]) -> "float | GroupRate":
    """One kind is tried, not both: a fault then names the key that holds it, and what is allowed there."""
    if isinstance(value, Mapping | GroupRate):
        return GroupRate.model_validate(value)
    return _NUMBER.validate_python(value)


NumberOrMapping = Annotated[Rate | GroupRate, WrapValidator(_number_or_mapping)]


def scaled_steps(steps: int | None, fraction: float) -> int | None:
    """Steps of a stage that trains on this share of its rows: at least one; None where epochs decide."""
    return None if steps is None else max(1, round(steps * fraction))


class Stage(Section):
    """One training run over one mixture: what trains, on what, how fast, how long."""

    train: Annotated[dict[Place, Method], Field(min_length=1)]
    """Place -> method with its options; a place not named is frozen."""
    data: Annotated[list[DataSection], Field(min_length=1)]
    fraction: Share = 1.0
    """Share of every data entry's rows, nested: a smaller share is part of a larger one. ``steps`` shrink alike."""
    learning_rate: Annotated[dict[Group, NumberOrMapping], Field(min_length=1)]
    """Group -> highest rate of its schedule, or a mapping that says more; every group that trains needs one."""
    batch: Count
    """Rows per optimizer step, over all devices."""
    micro_batch: Count | None = None
    """Rows per device and forward; None: the whole batch."""
    steps: Count | None = None
    """Optimizer steps with all rows; a ``fraction`` of the rows makes the same fraction of the steps."""
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Passes over the data; 1 where neither this nor ``steps`` is given."""
    warmup_fraction: WarmUp = 0.03
    """Share of the steps in which rates rise from 0."""
    schedule: Schedule = "cosine"
    """How rates go on after that."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """AdamW's; biases and norms have none."""
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    """Longer gradients are scaled down to it; null: never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` computes under autocast; weights stay fp32."""
    gradient_checkpointing: bool = False
    """Computes blocks again in the backward pass instead of keeping their activations."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: Count | None = 100
    """Steps between two checkpoints; null: only one, at the end of the stage."""
    keep_checkpoints: Count = 2
    """How many are kept."""
    max_tokens: Count | None = None
    """A longer row is refused by name; null: no limit."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that open pictures; 0: the training process itself."""

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_if_unsaid(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("steps") is None and value.get("epochs") is None:
            return {**value, "epochs": 1.0}
        return value

    @model_validator(mode="after")
    def _no_conflict(self) -> "Stage":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps {self.steps} and epochs {self.epochs} are both given; fix: keep one of them")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}; fix: change one of them"
            )
        return self

    @property
    def rates(self) -> dict[str, GroupRate]:
        """The rate of each group with nothing left open: what it does not say itself is the stage's."""
        own = {"warmup_fraction": self.warmup_fraction, "schedule": self.schedule}
        said = {
            group: rate.model_dump(exclude_none=True) if isinstance(rate, GroupRate) else {"peak": rate}
            for group, rate in self.learning_rate.items()
        }
        return {group: GroupRate(**{**own, **values}) for group, values in said.items()}

    @property
    def peaks(self) -> dict[str, float]:
        """The highest rate of each group."""
        return {group: rate.peak for group, rate in self.rates.items()}

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps that are done; None where epochs decide, and only the rows tell."""
        return scaled_steps(self.steps, self.fraction)

    @property
    def used_data(self) -> list[DataSection]:
        """The data entries as they are read: with the stage's fraction of their own."""
        return [entry.model_copy(update={"fraction": entry.fraction * self.fraction}) for entry in self.data]


class CompareSection(Section):
    """Variants of the recipe, each its difference: dotted path -> value."""

    variants: Annotated[dict[Name, dict[Word, Any]], Field(min_length=1)]
    """Name -> differences; null takes a variant out that the recipe below brings."""
    beside: Word | None = None
    """Folder of another comparison, or its ``digest.json``, that reports show beside this one, labelled as such."""
    differs: list[Word] = []
    """Dotted paths, with all below them, in which variants may differ besides the last stage's methods and rates."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_was_taken_out(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(variants := value.get("variants"), dict):
            return {**value, "variants": {name: paths for name, paths in variants.items() if paths is not None}}
        return value


class VisionGradientRecord(Section):
    """Gradients of the eyes, kept while training, from which ``yarbus.analysis.agreement`` reads their direction."""

    every: Count
    """Optimizer steps between two records; about 1,000 over a stage are enough."""
    dim: Annotated[int, Field(ge=1, le=10**7)] = 65536
    """A gradient with more elements is count-sketched to this many, which moves a cosine by about 1/sqrt(dim)."""


class RoutingRecord(Section):
    """How the experts share out a fixed set of training rows, kept while training."""

    every: Count
    """Optimizer steps between two records; the state before the first step is always one."""
    samples: Count = 64
    """Training rows that are looked at, the same each time, spread evenly over tasks."""


class RecordSection(Section):
    """What is written down while the eyes train; it changes no weight and may change on resume."""

    vision_gradient: VisionGradientRecord | None = None
    """Writes ``stages/STAGE/gradients/step-000010.safetensors``; null: nothing."""
    routing: RoutingRecord | None = None
    """Writes ``stages/STAGE/routing.jsonl`` where vision holds a mixture of experts; null: nothing."""


class Recipe(Section):
    """A whole experiment."""

    name: Name | None = None
    """Names the run's folder; the file's name if left out, where it can name one."""
    model: ModelSection
    question: QuestionSection = QuestionSection()
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """In order; each starts from what the one before left."""
    evaluation: list[Word] = []
    """Benchmarks by name, or ``file:PATH``."""
    record: RecordSection = RecordSection()
    """Gradients and routing to write down while training."""
    compare: CompareSection | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides new tensors, dropout and the order of rows."""

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
    facts = [recipe.model.model_dump(), recipe.question.model_dump(), recipe.seed, list(before.items())]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
