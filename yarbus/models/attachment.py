"""What a method is, and the record of what methods did to a model and what they train.

``Method`` is the interface that ``methods`` implements; ``Attachment`` is the record, kept on the
base model, of what was inserted and what trains. All of it is by parameter name, so that it
survives copying and sharding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from yarbus.core.errors import ConfigError, MismatchError
from yarbus.core.places import GROUPS
from yarbus.models.encoders import EncoderSpec
from yarbus.models.fingerprint import checksum, sample
from yarbus.models.question import Question
from yarbus.models.slot import ContextSlot
from yarbus.models.vlm import VLM, Layout

Start = Literal["identity", "rounding", "changes"]
Fidelity = Literal["high", "low"]
Preparation = Callable[[nn.Module, Mapping[str, Any], float], None]
"""``prepare(model, inputs, progress)``: called before each micro-batch of training, without gradient; ``progress`` is
the share of the stage's steps that are done, in [0, 1). What it decides it leaves in its own modules."""
Prelude = Callable[[nn.Module, Tensor | None, dict[str, Any]], dict[str, Any]]
"""``prelude(base_model, input_ids, kwargs) -> kwargs``: called before ``generate`` makes beams of rows."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What can be attached to one place. Fields are its options; the docstring under each says its source."""

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    start: ClassVar[Start]
    """What attaching does to the outputs before training: nothing; no more than rounding; something declared."""
    layouts: ClassVar[tuple[Layout, ...]] = ("images tokens dim", "images tiles dim", "total dim")
    silent: ClassVar[tuple[str, ...]] = ()
    """Parts of names of tensors whose gradient may be zero at the start; the docstring says why."""
    mute: ClassVar[tuple[str, ...]] = ()
    """Parts of names of tensors whose gradient may stay zero on a small batch, such as a token for empty questions."""
    reasons: ClassVar[Mapping[str, str]] = {}
    """Why, for each part in ``silent`` and ``mute``: what an audit says of such a tensor."""
    paper: ClassVar[str] = ""
    """Where it was published, such as ``arXiv:2106.10199``; empty for what has no paper."""
    fidelity: ClassVar[Fidelity] = "high"
    """``low`` where neither code nor a full description is public: built from an abstract, our choices in the rest."""

    def __post_init__(self) -> None:
        """A wrong option must not become another method silently: made in Python, it is checked as in a recipe."""
        self.check({option.name: getattr(self, option.name) for option in fields(self)})

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raises ``ConfigError`` for an option whose value its annotation does not allow."""
        annotations = get_type_hints(cls, include_extras=True)
        for option, value in options.items():
            try:
                TypeAdapter(annotations[option]).validate_python(value, strict=True)
            except ValidationError as error:
                why = "; ".join(dict.fromkeys(fault["msg"].lower() for fault in error.errors()))
                what = f"option '{option}' of method '{cls.name}' is {value!r}"
                raise ConfigError(what, why=why, fix="correct the value") from None

    @abstractmethod
    def groups(self, place: str) -> tuple[str, ...]:
        """Parameter groups that training this method fills."""

    @property
    def starts(self) -> Start:
        """What attaching does with these options; ``start`` says it of the defaults."""
        return self.start

    @property
    def reads_question(self) -> bool:
        """Whether the features depend on the text."""
        return False

    @property
    def reads_question_tokens(self) -> bool:
        """Whether it reads the question's token states (``TextStates.tokens``), and not its pooled vector alone: what a
        text cache keeps. A method that does not say is given both."""
        return self.reads_question

    @property
    def reads_prompt(self) -> bool:
        """Whether it needs what the user said in the language model's own tokens (``context_prompt_ids``)."""
        return False

    @property
    def further_encoders(self) -> Mapping[str, EncoderSpec]:
        """Vision encoders that it needs beside the base's tower, by name, in order."""
        return {}

    @property
    def draws_at_random(self) -> bool:
        """Whether images are treated at random, keyed by ``context_row_key``: each visit of a row needs its own key."""
        return False

    @property
    def depends_on_micro_batch(self) -> bool:
        """Whether the same rows in other micro-batches train otherwise, by more than rounding: a loss over the images
        of a forward, or draws from the global generator. A resumed run must then keep its ``micro_batch``."""
        return False

    @abstractmethod
    def attach(self, vlm: VLM, place: str, attachment: "Attachment") -> None:
        """Inserts modules and says which parameters train in which group."""

    def spec(self) -> dict[str, Any]:
        """The method as recipes and adapters write it."""
        return {"method": self.name, **asdict(self)}


@dataclass
class Trained:
    """One parameter that a method trains."""

    place: str
    group: str
    is_reachable: bool
    """False for parameters of modules that run for nothing; they stay frozen."""


@dataclass(frozen=True)
class Before:
    """What is noted of a tensor of the base, to tell later whether it was trained."""

    dtype: torch.dtype
    checksum: int
    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> "Before":
        """The note of a tensor that is as the base has it."""
        return cls(tensor.dtype, checksum(tensor), sample(tensor))

    def differs_from(self, tensor: Tensor) -> bool:
        """Whether any bit is another one. In another precision, where every bit is, the sample alone tells."""
        if tensor.dtype == self.dtype:
            return checksum(tensor) != self.checksum
        now = sample(tensor)
        return not torch.equal(now, self.sample.to(now.dtype))


@dataclass
class Attachment:
    """What was done to a model. Lives on the base model as ``context_attachment``."""

    base_class: str
    base_name: str
    base_fingerprint: str
    required_grad: dict[str, bool]
    """Every parameter of the unchanged model, and whether it trained."""
    slot: ContextSlot
    keep_base: bool
    places: dict[str, Method] = field(default_factory=dict)
    """The method that each place holds."""
    active: set[str] = field(default_factory=set)
    """Places that train in the stage that is running."""
    parameters: dict[str, Trained] = field(default_factory=dict)
    """By name from the top model."""
    replaced: dict[str, nn.Module] = field(default_factory=dict)
    """Module path -> the module that stood there."""
    inserted: set[str] = field(default_factory=set)
    """Module paths whose tensors are new."""
    added: set[str] = field(default_factory=set)
    """Of these, the ones that stand beside what was there instead of in its place."""
    hooked: list[tuple[str, Callable[..., Any]]] = field(default_factory=list)
    """Module path and hook, for each hook of an inserted module."""
    dropped: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """(place, module path, group) -> parameters that the paper counts and that are left out, as no gradient comes."""
    preparations: list[Preparation] = field(default_factory=list)
    """What methods do before each micro-batch of training."""
    preludes: list[Prelude] = field(default_factory=list)
    """What methods compute once before ``generate`` begins."""
    image_tokens: int | None = None
    """Tokens of each image that the projector hands the language model, where a method changed their number."""
    untied: dict[str, bool] = field(default_factory=dict)
    """Name of an lm_head that got a weight of its own -> whether the config of the text half said that it is shared."""
    noted: dict[str, Before] = field(default_factory=dict)
    """Of each tensor trained in place what tells whether it was trained, where no copy was kept."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Copies of tensors trained in place, where ``keep_base`` asked for them."""
    question: Question | None = None
    folded: set[str] = field(default_factory=set)
    """Places whose update went into the base's own weights: there is no base left that an adapter could name."""
    was_loaded_whole: bool = False
    """The model came from a full save, so there is no base to detach to."""

    _pending: list[tuple[nn.Parameter, str]] = field(default_factory=list)

    def replace(
        self, vlm: VLM, owner: nn.Module, path: str, module: nn.Module, new: Sequence[str] | None = None
    ) -> None:
        """Puts a module in the place of ``owner.path``; its tensors count as new.

        ``new``: its submodules whose tensors are new, where it keeps the others of what it stands for.
        """
        parent, _, leaf = path.rpartition(".")
        holder = owner.get_submodule(parent)
        full = f"{_path_of(vlm.model, holder)}.{leaf}".lstrip(".")
        self.replaced[full] = getattr(holder, leaf)
        self.inserted |= {full} if new is None else {f"{full}.{name}" for name in new}
        setattr(holder, leaf, module)

    def insert(self, vlm: VLM, owner: nn.Module, name: str, module: nn.Module) -> None:
        """Puts a module beside what ``owner`` holds; its tensors are new, and detach takes it away again."""
        assert not hasattr(owner, name), name
        full = f"{_path_of(vlm.model, owner)}.{name}".lstrip(".")
        self.inserted.add(full)
        self.added.add(full)
        setattr(owner, name, module)

    def before(self, vlm: VLM, owner: nn.Module, hook: Callable[..., Any]) -> None:
        """``hook(owner, args, kwargs) -> (args, kwargs)`` runs before each call of ``owner``.

        It must be a method of an inserted module: copies of the model then carry their own, and detach finds it.
        """
        assert isinstance(getattr(hook, "__self__", None), nn.Module), hook
        owner.register_forward_pre_hook(hook, with_kwargs=True)
        self.hooked.append((_path_of(vlm.model, owner), hook))

    def after(self, vlm: VLM, owner: nn.Module, hook: Callable[..., Any]) -> None:
        """``hook(owner, args, kwargs, output) -> output`` runs after each call of ``owner``, as ``before`` does.

        It is the first to see the output: what the library captures as hidden states is what it returns.
        """
        assert isinstance(getattr(hook, "__self__", None), nn.Module), hook
        owner.register_forward_hook(hook, with_kwargs=True, prepend=True)
        self.hooked.append((_path_of(vlm.model, owner), hook))

    def untie(self, vlm: VLM) -> None:
        """Gives an lm_head that shares the embedding table's weight a copy of its own; ``detach`` ties it again."""
        head, table = vlm.lm_head, vlm.model.get_input_embeddings()
        if head.weight is not table.weight:
            return
        head.weight = nn.Parameter(head.weight.detach().clone())
        path = next(name for name, module in vlm.model.named_modules() if module is head)
        text = vlm.config.get_text_config()
        self.untied[f"{path}.weight"] = bool(getattr(text, "tie_word_embeddings", False))
        vlm.config.tie_word_embeddings = text.tie_word_embeddings = False

    def drop(self, vlm: VLM, place: str, module: nn.Module, group: str, number: int) -> None:
        """Counts parameters that the paper declares in this module and that are left out, as no gradient comes."""
        self.dropped[place, _path_of(vlm.model, module), group] = number

    def train(self, parameters: Mapping[str, nn.Parameter] | list[nn.Parameter], group: str) -> None:
        """Declares parameters as trained in a group. Those of dead modules are counted but stay frozen."""
        assert group in GROUPS, group
        values = parameters.values() if isinstance(parameters, Mapping) else parameters
        self._pending += [(parameter, group) for parameter in values]

    def settle(self, vlm: VLM, place: str) -> None:
        """Names what ``train`` declared; called once a method has attached."""
        names = {id(parameter): name for name, parameter in vlm.model.named_parameters()}
        dead = vlm.dead_parameters()
        for parameter, group in self._pending:
            name = names[id(parameter)]
            if name in self.parameters and self.parameters[name].place == "head" != place:
                continue  # a head has taken the lm_head over from the language model
            self.parameters[name] = Trained(place, group, is_reachable=id(parameter) not in dead)
            if not self.is_new(name):
                self.remember(name, parameter)
        self._pending = []

    def abandon(self) -> None:
        """Forgets what ``train`` declared for a method that failed, which must not pass for the next one's."""
        self._pending = []

    def remember(self, name: str, parameter: nn.Parameter) -> None:
        """Notes a tensor of the base before it changes in place."""
        if self.keep_base and name not in self.kept:
            self.kept[name] = parameter.detach().clone()
        elif not self.keep_base and name not in self.noted and parameter.device.type != "meta":
            self.noted[name] = Before.of(parameter)

    def is_new(self, name: str) -> bool:
        """Whether a tensor came with an inserted module."""
        return any(name.startswith(f"{path}.") for path in self.inserted)


def _path_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, one in model.named_modules() if one is module)


def attachment_of(model: nn.Module) -> Attachment:
    """The model's attachment; a model without one raises ``ConfigError``."""
    attachment = getattr(model.base_model, "context_attachment", None)
    if attachment is None:
        raise ConfigError("nothing is attached to this model", fix="call yarbus.attach(model, processor, ...) first")
    return attachment


def is_attached(model: nn.Module) -> bool:
    """Whether ``attach`` was called on this model (and ``detach`` not)."""
    return getattr(model.base_model, "context_attachment", None) is not None


def check_names(model: nn.Module) -> None:
    """Raises ``MismatchError`` where a tensor that trains or has trained is not under its name any more.

    What is left out of a save or a step by its name would be left out without a word.
    """
    here = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, trained in attachment_of(model).parameters.items():
        if trained.is_reachable and name not in here:
            raise MismatchError(
                f"tensor '{name}' is not in the model any more",
                why="another library has renamed it, or wrapped the model",
                fix="merge or unload it first, and hand over the model that attach returned",
            )


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """group -> {name: parameter} of everything that trains now and is reached by a gradient."""
    check_names(model)
    attachment = attachment_of(model)
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        trained = attachment.parameters.get(name)
        if trained is not None and trained.is_reachable and trained.place in attachment.active:
            groups.setdefault(trained.group, {})[name] = parameter
    return groups


def declared_groups(model: nn.Module) -> list[str]:
    """Groups that the methods training now declare, in the order of ``GROUPS``."""
    attachment = attachment_of(model)
    declared = {group for place in attachment.active for group in attachment.places[place].groups(place)}
    return [group for group in GROUPS if group in declared]


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything added or trained so far, by name: what an adapter and a checkpoint hold."""
    check_names(model)
    attachment = attachment_of(model)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if attachment.is_new(name) or (name in attachment.parameters and attachment.parameters[name].is_reachable)
    }


@torch.no_grad()
def load_adapter_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The strict inverse of ``adapter_tensors``: nothing missing, nothing more, shapes equal; else nothing changes."""
    mine = adapter_tensors(model)
    for name in sorted(mine.keys() | tensors.keys()):
        found, wanted = tensors.get(name), mine.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (found, wanted)]
            raise MismatchError(
                f"tensor '{name}' does not fit",
                why=f"saved: {shapes[0] or 'missing'}, this model: {shapes[1] or 'missing'}",
                fix="attach the same methods with the same options to the same base",
            )
    for name, tensor in mine.items():
        tensor.copy_(tensors[name])
