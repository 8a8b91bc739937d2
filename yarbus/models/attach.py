"""Attaching methods to a model stage by stage, and taking them off again."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from yarbus.core.errors import ConfigError
from yarbus.core.places import PLACES
from yarbus.models.attachment import Attachment, Method, attachment_of, check_names, is_attached
from yarbus.models.context import receive_context, release_context
from yarbus.models.encoders import VisionEncoder, encoders_of, load_encoder
from yarbus.models.fingerprint import fingerprint
from yarbus.models.idle import run_idle_eyes
from yarbus.models.processor import attach_to_processor, detach_from_processor, set_needs
from yarbus.models.question import Question
from yarbus.models.recompute import bind
from yarbus.models.slot import ContextSlot
from yarbus.models.text_encoder import (
    LANGUAGE_EMBEDDINGS,
    TextEncoder,
    load_context_tokenizer,
    load_text_encoder,
    special_ids,
)
from yarbus.models.vlm import VLM
from yarbus.models.wrapper import ContextMixin, context_class

FROZEN = "frozen"
"""The method that asks for a place as it is: it never takes out what an earlier stage attached."""


def refuse_wrapped(model: nn.Module) -> None:
    """Raises for what stands around a model: hooks and the class swap would land on the wrapper."""
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"cannot attach to {type(model).__name__}",
            why="it is no transformers model, but something around one",
            fix="attach before torch.compile, DDP or get_peft_model wrap the model",
        )


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
    vlm.base_model.register_forward_pre_hook(run_idle_eyes, with_kwargs=True)
    return attachment


def _open_path(
    vlm: VLM, attachment: Attachment, encoder: TextEncoder | None, encoders: Mapping[str, VisionEncoder]
) -> None:
    """Hooks on the base model and the class swap on the top model; once per model. Encoders may come later."""
    base, model = vlm.base_model, vlm.model
    if not isinstance(model, ContextMixin):
        _make_path(vlm, attachment)
    if encoder is not None:
        base.context_encoder = encoder
    if encoders:
        base.context_vision_encoders = nn.ModuleDict(encoders)  # type: ignore[arg-type]
        model.__class__ = context_class(model.plain_class, tuple(encoders))  # type: ignore[attr-defined]


def _make_path(vlm: VLM, attachment: Attachment) -> None:
    base, model = vlm.base_model, vlm.model
    base.context_slot = attachment.slot  # type: ignore[assignment]
    base.context_family = vlm.family  # type: ignore[assignment]
    base.context_encoder = base.context_vision_encoders = None  # type: ignore[assignment]
    base.context_special_ids = frozenset()  # type: ignore[assignment]
    # Before hooks of methods: they read what it fills.
    base.register_forward_pre_hook(receive_context, with_kwargs=True, prepend=True)
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
        if method.name == FROZEN:  # what the place holds stays and runs; it only trains no more
            return
        raise ConfigError(
            f"place '{place}' holds '{holds.name}' already",
            why="a method stays where an earlier stage attached it",
            fix=f"name the same method with the same options, or start from a model without '{holds.name}'",
        )
    before = set(attachment.inserted)
    try:
        method.attach(vlm, place, attachment)
        attachment.settle(vlm, place)
    except BaseException:
        attachment.abandon()
        raise
    attachment.places[place] = method  # not before: a stage that failed and is tried again must attach
    for path in attachment.inserted - before:
        module = vlm.model.get_submodule(path)
        module.train(vlm.model.training)


def set_stage(
    model: nn.Module,
    processor: Any,
    places: Mapping[str, Method],
    *,
    text_encoder: str | TextEncoder | None = None,
    vision_encoders: Mapping[str, VisionEncoder] | None = None,
    question: Question | None = None,
    keep_base: bool = False,
) -> tuple[nn.Module, Any]:
    """Attaches what is new among ``places``, trains the places named, and freezes the rest.

    The first call on a model attaches to it; later calls (later stages) may add methods to places that hold
    none. A place not named is frozen but still runs. Changes model and processor in place and returns them.
    ``vision_encoders``: those that its methods need, where they are loaded already.

    Raises:
        ConfigError: a method that does not fit its place or tower, a place that holds another method, a method that
            reads the question without a text encoder, or something around a model (compiled, DDP, peft).
    """
    unknown = [place for place in places if place not in PLACES]
    if unknown:
        raise ConfigError(f"unknown place '{unknown[0]}'", fix=f"use one of: {', '.join(PLACES)}")
    refuse_wrapped(model)
    vlm = VLM.of(model)
    needs_text = any(method.reads_question for method in places.values())
    if needs_text and text_encoder is None and getattr(vlm.base_model, "context_encoder", None) is None:
        named = next(method.name for method in places.values() if method.reads_question)
        raise ConfigError(
            f"method '{named}' reads the question but there is no text encoder",
            fix="pass text_encoder=, for instance 'bert-base-uncased' or 'language_embeddings'",
        )
    _refuse_other_question(vlm, text_encoder, question)
    # The encoder is loaded before anything changes: a wrong name must leave the model as it was.
    encoder = None
    if needs_text and getattr(vlm.base_model, "context_encoder", None) is None:
        assert text_encoder is not None
        _refuse_trained_table(vlm, text_encoder)
        encoder = text_encoder if isinstance(text_encoder, TextEncoder) else load_text_encoder(text_encoder, vlm)
    vision_encoders = vision_encoders or _further_encoders(vlm, places)
    is_first = not is_attached(model)
    attachment = _begin(vlm, keep_base) if is_first else attachment_of(model)
    try:
        _attach_all(vlm, processor, attachment, places, encoder, vision_encoders, question)
    except BaseException:
        if is_first:  # a method that does not fit must leave the model as it was
            detach(model, processor)
        raise
    return model, processor


def _further_encoders(vlm: VLM, places: Mapping[str, Method]) -> dict[str, VisionEncoder]:
    """The vision encoders that a stage's methods need, loaded where the model does not have them."""
    here = encoders_of(vlm.base_model)
    wanted = {name: spec for method in places.values() for name, spec in method.further_encoders.items()}
    if here and here.keys() == wanted.keys() and all(here[name].spec == spec for name, spec in wanted.items()):
        return {}
    if here and wanted:
        raise ConfigError(
            "other vision encoders than the model was attached with",
            why=f"it has {', '.join(here)}, asked for {', '.join(wanted)}",
            fix="name the same, or start from a model without",
        )
    return {name: load_encoder(name, spec, vlm) for name, spec in wanted.items()}


def _refuse_trained_table(vlm: VLM, text_encoder: str | TextEncoder) -> None:
    """Raises where the copy of the embedding table would be of one that has trained: an adapter names the base alone,
    whose table is another one."""
    name = text_encoder.name if isinstance(text_encoder, TextEncoder) else text_encoder
    if name != LANGUAGE_EMBEDDINGS or not is_attached(vlm.model):
        return
    table, trained = vlm.model.get_input_embeddings().weight, attachment_of(vlm.model).parameters
    here = next(path for path, parameter in vlm.model.named_parameters() if parameter is table)
    if here in trained and trained[here].is_reachable:
        raise ConfigError(
            f"{LANGUAGE_EMBEDDINGS} would copy a table that an earlier stage trains",
            where=here,
            why="an adapter could not be loaded: its base has another table",
            fix="attach what reads the question in the first stage, or name another text encoder",
        )


def _refuse_other_question(vlm: VLM, text_encoder: str | TextEncoder | None, question: Question | None) -> None:
    """Raises where a model that reads questions in one way is asked to read them in another."""
    here: TextEncoder | None = getattr(vlm.base_model, "context_encoder", None)
    if here is None:
        return
    name = text_encoder.name if isinstance(text_encoder, TextEncoder) else text_encoder
    now = attachment_of(vlm.model).question
    for what, old, new in (("text encoder", here.name, name), ("question rules", now, question)):
        if new is not None and new != old:
            raise ConfigError(
                f"another {what} than the model was attached with",
                why=f"it has {old}, asked for {new}",
                fix="name the same, or start from a model without",
            )


def _attach_all(
    vlm: VLM,
    processor: Any,
    attachment: Attachment,
    places: Mapping[str, Method],
    encoder: TextEncoder | None,
    vision_encoders: Mapping[str, VisionEncoder],
    question: Question | None,
) -> None:
    if encoder is not None or vision_encoders:
        _open_path(vlm, attachment, encoder, vision_encoders)
    if encoder is not None:
        attachment.question = question or Question()
        if processor is not None:
            tokenizer = load_context_tokenizer(encoder, processor)
            attach_to_processor(processor, tokenizer, attachment.question, encoder.limit)
            vlm.base_model.context_special_ids = special_ids(tokenizer)
    for place, method in places.items():
        _attach_method(vlm, attachment, place, method)
    if processor is not None:
        follow(processor, vlm.model)
    if attachment.inserted:
        _open_path(vlm, attachment, None, {})
    attachment.active = {place for place, method in places.items() if method.groups(place)}
    set_requires_grad(vlm.model, attachment)


def follow(processor: Any, model: nn.Module) -> None:
    """Makes batches what the attached methods need: placeholders of an image, the question for a head, and pictures as
    further vision encoders see them."""
    attachment, encoders = attachment_of(model), encoders_of(model.base_model)  # type: ignore[arg-type]
    reads_prompt = any(method.reads_prompt for method in attachment.places.values())
    pictures = {name: encoder.image_processor for name, encoder in encoders.items()}
    set_needs(processor, attachment.image_tokens, reads_prompt, pictures)


def set_requires_grad(model: nn.Module, attachment: Attachment) -> None:
    """Lets train what the methods of the places that train now declare and a gradient reaches, and nothing else."""
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
    refuse_wrapped(model)
    if is_attached(model):
        raise ConfigError(
            "a method is attached to this model already", fix="call yarbus.detach(model) first, or load a fresh model"
        )
    return set_stage(model, processor, places, text_encoder=text_encoder, question=question, keep_base=keep_base)


def detach(model: nn.Module, processor: Any = None) -> nn.Module:
    """Takes everything off: modules, hooks, class and ``requires_grad`` are as before ``attach``.

    Before training this restores the model exactly. After training, tensors trained in place come back only with
    ``attach(keep_base=True)``; without it detach refuses (``ConfigError``) and changes nothing.
    """
    attachment = attachment_of(model)
    check_names(model)
    parameters = dict(model.named_parameters())
    if attachment.was_loaded_whole:
        raise ConfigError(
            "cannot detach: this model was loaded whole", fix="load the base, and the adapter if you want both"
        )
    changed = [
        name
        for name, before in attachment.noted.items()
        if name not in attachment.untied and before.differs_from(parameters[name])  # a copy goes, trained or not
    ]
    if changed:
        raise ConfigError(
            f"cannot detach: {len(changed)} tensors of the base were trained in place",
            where=changed[0],
            fix="attach with keep_base=True, or load the base again",
        )
    with torch.no_grad():
        for name, kept in attachment.kept.items():
            if name not in attachment.untied:
                parameters[name].copy_(kept)
    _take_out(model, attachment.hooked, attachment.added)
    for path, module in attachment.replaced.items():
        parent, _, leaf = path.rpartition(".")
        holder = model.get_submodule(parent)
        like = next(getattr(holder, leaf).parameters())
        setattr(holder, leaf, module.to(device=like.device, dtype=like.dtype).train(model.training))
    _tie(model, attachment)
    release(model)
    if processor is not None:
        detach_from_processor(processor)
    return model


def _tie(model: nn.Module, attachment: Attachment) -> None:
    """Lets an lm_head share the embedding table's weight again."""
    for text_says in attachment.untied.values():
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        model.config.tie_word_embeddings = True
        model.config.get_text_config().tie_word_embeddings = text_says


def release(model: nn.Module) -> None:
    """Ends the attachment of a model in which nothing inserted is left: an ordinary model, with the weights it has."""
    attachment = attachment_of(model)
    _close_path(VLM.of(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(attachment.required_grad[name])


def forget(model: nn.Module, added: Collection[str]) -> None:
    """Takes out modules that were put beside others, by path, with their hooks and all that was noted of them."""
    attachment = attachment_of(model)
    gone = [model.get_submodule(path) for path in added]
    hooked = [(path, hook) for path, hook in attachment.hooked if any(hook.__self__ is module for module in gone)]  # type: ignore[attr-defined]
    for name in [name for name in attachment.parameters if name.startswith(tuple(f"{path}." for path in added))]:
        del attachment.parameters[name]
    _take_out(model, hooked, added)
    attachment.hooked = [pair for pair in attachment.hooked if pair not in hooked]
    attachment.added -= set(added)
    attachment.inserted -= set(added)


def _take_out(model: nn.Module, hooked: Iterable[tuple[str, Callable]], added: Iterable[str]) -> None:
    """Removes hooks, and modules that were put beside others."""
    for path, hook in hooked:
        module = model.get_submodule(path)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            _remove_hook(module, hooks, hook)
    for path in added:
        parent, _, leaf = path.rpartition(".")
        delattr(model.get_submodule(parent), leaf)


def _close_path(vlm: VLM) -> None:
    base, model = vlm.base_model, vlm.model
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(checkpoint, "is_bound", False):
            module._gradient_checkpointing_func = checkpoint.__wrapped__  # type: ignore[assignment, union-attr]
    _remove_hook(base, base._forward_pre_hooks, run_idle_eyes)
    del base.context_attachment
    if not isinstance(model, ContextMixin):
        return
    for hooks, ours in ((base._forward_pre_hooks, receive_context), (base._forward_hooks, release_context)):
        _remove_hook(base, hooks, ours)
    del base.context_slot, base.context_family, base.context_encoder, base.context_special_ids
    del base.context_vision_encoders
    model.__class__ = model.plain_class  # type: ignore[attr-defined]


def _remove_hook(module: nn.Module, hooks: dict[int, Callable], ours: Callable) -> None:
    for number in [number for number, hook in hooks.items() if hook == ours]:
        del hooks[number]
        for flags in (
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ):
            flags.pop(number, None)
