"""Attaching methods to a model, telling what they train, and taking them off again.

``Method`` is the interface that ``methods`` implements; ``Attachment`` is the record, kept on the
base model, of what was inserted and what trains. All of it is by parameter name, so that it
survives copying and sharding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from yarbus.core.errors import ConfigError, MismatchError
from yarbus.core.places import GROUPS, PLACES
from yarbus.models.context import ContextSlot, bind, receive_context, release_context
from yarbus.models.fingerprint import fingerprint
from yarbus.models.processor import attach_to_processor, detach_from_processor
from yarbus.models.question import Question
from yarbus.models.text_encoder import TextEncoder, load_context_tokenizer, load_text_encoder
from yarbus.models.vlm import VLM, Layout
from yarbus.models.wrapper import ContextMixin, context_class

Start = Literal["identity", "rounding", "changes"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What can be attached to one place. Fields are its options; the docstring under each says its source."""

    name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    start: ClassVar[Start]
    """What attaching does to the outputs before training: nothing; no more than rounding; something declared."""
    layouts: ClassVar[tuple[Layout, ...]] = ("images tokens dim", "total dim")

    @abstractmethod
    def groups(self, place: str) -> tuple[str, ...]:
        """Parameter groups that training this method fills."""

    @property
    def reads_question(self) -> bool:
        """Whether the features depend on the text."""
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
    versions: dict[str, int] = field(default_factory=dict)
    """In-place change counter of each tensor trained in place, as it was at attach."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Copies of tensors trained in place, where ``keep_base`` asked for them."""
    question: Question | None = None

    _pending: list[tuple[nn.Parameter, str]] = field(default_factory=list)

    def replace(self, vlm: VLM, owner: nn.Module, path: str, module: nn.Module) -> None:
        """Puts a module in the place of ``owner.path``; its tensors count as new."""
        parent, _, leaf = path.rpartition(".")
        holder = owner.get_submodule(parent)
        full = f"{_path_of(vlm.model, holder)}.{leaf}".lstrip(".")
        self.replaced[full] = getattr(holder, leaf)
        self.inserted.add(full)
        setattr(holder, leaf, module)

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
            self.parameters[name] = Trained(place, group, is_reachable=id(parameter) not in dead)
            if not self.is_new(name):
                self.versions[name] = parameter._version
                if self.keep_base:
                    self.kept[name] = parameter.detach().clone()
        self._pending = []

    def is_new(self, name: str) -> bool:
        """Whether a tensor came with an inserted module."""
        return any(name.startswith(f"{path}.") for path in self.inserted)

    @property
    def reads_question(self) -> bool:
        return any(method.reads_question for method in self.places.values())


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


def _begin(vlm: VLM, keep_base: bool) -> Attachment:
    model = vlm.model
    attachment = Attachment(
        base_class=type(model).__name__,
        base_name=getattr(model.config, "_name_or_path", "") or "",
        base_fingerprint=fingerprint(dict(model.named_parameters())),
        required_grad={name: parameter.requires_grad for name, parameter in model.named_parameters()},
        slot=ContextSlot(),
        keep_base=keep_base,
    )
    vlm.base_model.context_attachment = attachment  # type: ignore[assignment]
    return attachment


def _open_path(vlm: VLM, attachment: Attachment, encoder: TextEncoder | None) -> None:
    """Hooks on the base model and the class swap on the top model; once per model."""
    base, model = vlm.base_model, vlm.model
    if isinstance(model, ContextMixin):
        if encoder is not None:
            base.context_encoder = encoder
        return
    base.context_slot = attachment.slot  # type: ignore[assignment]
    base.context_family = vlm.family  # type: ignore[assignment]
    base.context_encoder = encoder
    base.context_special_tokens = 0  # type: ignore[assignment]
    base.register_forward_pre_hook(receive_context, with_kwargs=True)
    base.register_forward_hook(release_context, with_kwargs=True, always_call=True)
    model.__class__ = context_class(model.__class__)
    # Checkpointing that was switched on before knows nothing of the slot yet.
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is not None and not getattr(checkpoint, "is_bound", False):
            module._gradient_checkpointing_func = bind(checkpoint, attachment.slot)  # type: ignore[assignment]


def _attach_method(vlm: VLM, attachment: Attachment, place: str, method: Method) -> None:
    if place not in method.places:
        raise ConfigError(
            f"method '{method.name}' does not fit the place '{place}'", fix=f"it fits: {', '.join(method.places)}"
        )
    if place == "vision" and vlm.tower.layout not in method.layouts:
        raise ConfigError(
            f"method '{method.name}' does not work on {vlm.tower.config}",
            why=f"its tokens are [{vlm.tower.layout}], the method needs [{'] or ['.join(method.layouts)}]",
            fix="choose another method for this tower",
        )
    holds = attachment.places.get(place)
    if holds == method:
        return
    if holds is not None and holds.groups(place):
        raise ConfigError(
            f"place '{place}' holds '{holds.name}' already",
            why="a method stays where an earlier stage attached it",
            fix=f"name the same method with the same options, or start from a model without '{holds.name}'",
        )
    attachment.places[place] = method
    before = set(attachment.inserted)
    method.attach(vlm, place, attachment)
    attachment.settle(vlm, place)
    for path in attachment.inserted - before:
        module = vlm.model.get_submodule(path)
        module.train(vlm.model.training)


def set_stage(
    model: nn.Module,
    processor: Any,
    places: Mapping[str, Method],
    *,
    text_encoder: str | TextEncoder | None = None,
    question: Question | None = None,
    keep_base: bool = False,
) -> tuple[nn.Module, Any]:
    """Attaches what is new among ``places``, trains the places named, and freezes the rest.

    The first call on a model attaches to it; later calls (later stages) may add methods to places that hold
    none. A place not named is frozen but still runs. Changes model and processor in place and returns them.

    Raises:
        ConfigError: a method that does not fit its place or tower, a place that holds another method, or a method
            that reads the question without a text encoder.
    """
    unknown = [place for place in places if place not in PLACES]
    if unknown:
        raise ConfigError(f"unknown place '{unknown[0]}'", fix=f"use one of: {', '.join(PLACES)}")
    vlm = VLM.of(model)
    needs_text = any(method.reads_question for method in places.values())
    if needs_text and text_encoder is None and getattr(vlm.base_model, "context_encoder", None) is None:
        named = next(method.name for method in places.values() if method.reads_question)
        raise ConfigError(
            f"method '{named}' reads the question but there is no text encoder",
            fix="pass text_encoder=, for instance 'bert-base-uncased' or 'language_embeddings'",
        )
    # The encoder is loaded before anything changes: a wrong name must leave the model as it was.
    encoder = None
    if needs_text and getattr(vlm.base_model, "context_encoder", None) is None:
        assert text_encoder is not None
        encoder = text_encoder if isinstance(text_encoder, TextEncoder) else load_text_encoder(text_encoder, vlm)
    is_first = not is_attached(model)
    attachment = _begin(vlm, keep_base) if is_first else attachment_of(model)
    try:
        _attach_all(vlm, processor, attachment, places, encoder, question)
    except BaseException:
        if is_first:  # a method that does not fit must leave the model as it was
            detach(model, processor)
        raise
    return model, processor


def _attach_all(
    vlm: VLM,
    processor: Any,
    attachment: Attachment,
    places: Mapping[str, Method],
    encoder: TextEncoder | None,
    question: Question | None,
) -> None:
    if encoder is not None:
        attachment.question = question or Question()
        _open_path(vlm, attachment, encoder)
        if processor is not None:
            tokenizer = load_context_tokenizer(encoder.name, processor)
            attach_to_processor(processor, tokenizer, attachment.question)
            vlm.base_model.context_special_tokens = tokenizer.num_special_tokens_to_add()
    for place, method in places.items():
        _attach_method(vlm, attachment, place, method)
    if attachment.inserted:
        _open_path(vlm, attachment, None)
    attachment.active = {place for place, method in places.items() if method.groups(place)}
    _set_requires_grad(vlm.model, attachment)


def _set_requires_grad(model: nn.Module, attachment: Attachment) -> None:
    for name, parameter in model.named_parameters():
        trained = attachment.parameters.get(name)
        parameter.requires_grad_(trained is not None and trained.is_reachable and trained.place in attachment.active)


def attach(
    model: nn.Module,
    processor: Any,
    places: Mapping[str, Method],
    *,
    text_encoder: str | None = None,
    question: Question | None = None,
    keep_base: bool = False,
) -> tuple[nn.Module, Any]:
    """``set_stage`` for a model that has nothing attached; a second attach is refused."""
    if is_attached(model):
        raise ConfigError(
            "a method is attached to this model already", fix="call yarbus.detach(model) first, or load a fresh model"
        )
    return set_stage(model, processor, places, text_encoder=text_encoder, question=question, keep_base=keep_base)


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """group -> {name: parameter} of everything that trains now and is reached by a gradient."""
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


def detach(model: nn.Module, processor: Any = None) -> nn.Module:
    """Takes everything off: modules, hooks, class and ``requires_grad`` are as before ``attach``.

    Before training this restores the model exactly. After training, tensors trained in place come back only with
    ``attach(keep_base=True)``; without it detach refuses (``ConfigError``) and changes nothing.
    """
    attachment = attachment_of(model)
    vlm = VLM.of(model)
    parameters = dict(model.named_parameters())
    changed = [name for name, version in attachment.versions.items() if parameters[name]._version != version]
    if changed and not attachment.keep_base:
        raise ConfigError(
            f"cannot detach: {len(changed)} tensors of the base were trained in place",
            where=changed[0],
            fix="attach with keep_base=True, or load the base again",
        )
    with torch.no_grad():
        for name in changed:
            parameters[name].copy_(attachment.kept[name])
    for path, module in attachment.replaced.items():
        parent, _, leaf = path.rpartition(".")
        holder = model.get_submodule(parent)
        like = next(getattr(holder, leaf).parameters())
        setattr(holder, leaf, module.to(device=like.device, dtype=like.dtype).train(model.training))
    _close_path(vlm)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(attachment.required_grad[name])
    if processor is not None:
        detach_from_processor(processor)
    return model


def _close_path(vlm: VLM) -> None:
    base, model = vlm.base_model, vlm.model
    del base.context_attachment
    if not isinstance(model, ContextMixin):
        return
    for hooks, ours in ((base._forward_pre_hooks, receive_context), (base._forward_hooks, release_context)):
        _remove_hook(base, hooks, ours)
    del base.context_slot, base.context_family, base.context_encoder, base.context_special_tokens
    model.__class__ = model.plain_class  # type: ignore[attr-defined]


def _remove_hook(module: nn.Module, hooks: dict[int, Callable], ours: Callable) -> None:
    for number in [number for number, hook in hooks.items() if hook is ours]:
        del hooks[number]
        for flags in (
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ):
            flags.pop(number, None)
