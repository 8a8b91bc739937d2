"""The parts that a recipe is made of: what each holds, and what is right for it.

Nothing here is read from a file; ``yarbus.core.recipe`` does that, and names file, line and key of a fault.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    WrapValidator,
    model_serializer,
    model_validator,
)

from yarbus.core.parts import PROJECTORS, Parts, title_of
from yarbus.core.places import GROUPS, PLACES
from yarbus.core.shares import check_shares

if TYPE_CHECKING:  # dict is invariant in its keys: for readers of a checked recipe they are text
    Place: TypeAlias = str
    Group: TypeAlias = str
    Projector: TypeAlias = str
else:
    Place, Group, Projector = Literal[PLACES], Literal[GROUPS], Literal[PROJECTORS]

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
    """The vision-language model that everything starts from: a ``base``, or a Llava built from ``vision_tower`` and
    ``language_model`` with a new projector between them, which the first stage has to train."""

    base: Word | None = None
    """Hub id, folder, or ``plug-in:name``; null where the model is built from parts."""
    vision_tower: Word | None = None
    """From parts: a vision encoder, named as a base is; of a whole CLIP or SigLIP its vision half."""
    language_model: Word | None = None
    """From parts: a causal language model of text alone, with its tokenizer, named as a base is."""
    projector: Projector | None = None
    """From parts: the new projector. ``mlp2``, taken if left out, is Linear, GELU, Linear."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """From parts: draws the projector's first weights; the recipe's ``seed`` if left out. It stays where a study goes
    through seeds: all of its runs begin from one base."""
    config: dict[str, Any] | None = None
    """Architecture, as the model's config.json has it, so that ``plan`` needs no weights. From parts also without its
    ``model_type``: fields of it that are not to be as the parts have them."""

    @model_validator(mode="before")
    @classmethod
    def _usual_projector_if_unsaid(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("vision_tower") is not None and value.get("projector") is None:
            return {**value, "projector": PROJECTORS[0]}
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> "ModelSection":
        named = [key for key in FROM_PARTS if getattr(self, key) is not None]
        if self.base is not None and named:
            raise ValueError(f"base and {named[0]} are both given; fix: keep base, or vision_tower with language_model")
        if self.base is None and not named:
            raise ValueError("no model named; fix: give base, or vision_tower with language_model")
        lacking = [key for key in ("vision_tower", "language_model") if named and getattr(self, key) is None]
        if lacking:
            raise ValueError(f"a model from parts lacks its {lacking[0]}; fix: add {lacking[0]}, or give base alone")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_unsaid(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Recipes that were resolved before models had parts read, and hash, as they did."""
        unsaid = ("base",) if self.base is None else FROM_PARTS
        return {key: value for key, value in handler(self).items() if key not in unsaid}

    @property
    def parts(self) -> Parts | None:
        """What the model is built from; None where it has a base."""
        if self.vision_tower is None or self.language_model is None or self.projector is None:
            return None
        return Parts(
            vision_tower=self.vision_tower,
            language_model=self.language_model,
            projector=self.projector,
            seed=self.seed or 0,
            config=self.config,
        )

    @property
    def name(self) -> str:
        """The base as whoever loads one takes it."""
        parts = self.parts
        return parts.name if parts is not None else str(self.base)

    @property
    def title(self) -> str:
        """What a person calls the base."""
        return title_of(self.name)

    @property
    def architecture(self) -> dict[str, Any] | None:
        """The whole architecture, where the recipe carries it."""
        return self.config if self.base is not None or "model_type" in (self.config or {}) else None


FROM_PARTS = ("vision_tower", "language_model", "projector", "seed")
"""Keys of a model that is built from parts."""


TEXT_CACHE = ("text_cache", "text_cache_mib")
"""Keys of a question that say where something is kept: no number hangs on them."""


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
    text_cache: Word | None = None
    """Folder that keeps what the text encoder makes of each question: those that a stage will ask are encoded before it
    trains. It changes no number; several runs may share it, and it may be deleted at any time. Null keeps nothing."""
    text_cache_mib: Count = 20_000
    """Most that the folder takes; what was used longest ago goes first."""

    @model_serializer(mode="wrap")
    def _without_an_unsaid_cache(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Recipes that were resolved before there was one read, and hash, as they did."""
        unsaid = {key for key in TEXT_CACHE if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in handler(self).items() if key not in unsaid}


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
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of every batch that these rows have, 0.125 for 1 to 7: a whole number of them, all classes equally often,
    drawn anew for each pass over the rows without a share. Null: the rows fill the rest, in passes of all of them."""
    names: Word | None = None
    """Of classes: JSON file, folder or label -> class name. Null: ``classes.json`` beside the class folders, else as
    the data calls them, with blanks for underscores."""
    templates: Word | None = None
    """Of classes: JSON list of questions to word a row with; null: the twenty that ship."""
    split: Word | None = None
    """Of a data set: its split; null where there is one only."""
    label: Word | None = None
    """Of a data set: the column of class labels; null where there is one only."""

    @model_serializer(mode="wrap")
    def _without_what_is_unsaid(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Recipes that were resolved before these keys came read, and hash, as they did."""
        return {key: value for key, value in handler(self).items() if value is not None or key not in _LATER}


_LATER = frozenset({"share", "names", "templates", "split", "label"})


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
    frozen_fraction: WarmUp = 0.0
    """Share of the steps, from the first on, in which its rate is 0 and its tensors stay as they are; then it follows
    its schedule from where that is by now. CARPE's second of two epochs is 0.5."""


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
    """Passes over the rows without a ``share``; 1 where neither this nor ``steps`` is given."""
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
        check_shares([entry.share for entry in self.data], self.batch)
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
