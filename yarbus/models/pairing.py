"""Two checkpoints made comparable, so that every tensor of one has its counterpart in the other.

What can be blended: two adapters of one base with the same methods; a base and an adapter that trained its tensors in
place; two full models. The factors of a low-rank update are no weights: half of one product is not the product of
half the factors. Where an adapter holds LoRA, both sides are made full models first, with the update in the weights,
and so is the blend. One model is in memory at a time, and only where a base has to be read.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn
from transformers import AutoConfig

from yarbus.core.errors import CheckpointError, ConfigError, MismatchError
from yarbus.core.records import make_folder
from yarbus.models.attach import FROZEN
from yarbus.models.checkpoints import Checkpoint, open_checkpoint
from yarbus.models.fingerprint import fingerprint
from yarbus.models.interpolate import FIX, Pair, mismatch
from yarbus.models.load import load_base
from yarbus.models.pretrained import computation_of, read_config
from yarbus.models.save import Build, load, load_adapter, save
from yarbus.models.weights import Form, Weights, file_weights, write_tensors

BASE = "base.safetensors"
LOW_RANK = ".lora_A."
NOTHING = (FROZEN, "none")
"""Methods that add and train nothing: naming one is the same as naming none."""
NOT_COMPUTED = frozenset({"use_cache", "yarbus", "pad_token_id", "bos_token_id", "eos_token_id"})
"""Entries of a model's config that say how it is trained and generates, which a blend takes from the first; methods are
compared by themselves."""
Fold = Callable[[nn.Module], nn.Module]
"""Puts low-rank updates into the weights; ``methods`` brings it."""


def _refuse_other(a: Checkpoint, b: Checkpoint, what: str, one: Any, other: Any, *, fix: str = FIX) -> None:
    """Raises for the first entry, by dotted name, that is not the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            _refuse_other(a, b, f"{what}.{key}", one.get(key), other.get(key), fix=fix)
    elif one != other:
        raise mismatch(what, a, b, (one, other), fix)


def _refuse_other_methods(a: Checkpoint, b: Checkpoint) -> None:
    """Equal tensors under other methods or questions are another function."""
    one, other = (
        {place: spec for place, spec in side.description.get("places", {}).items() if spec["method"] not in NOTHING}
        for side in (a, b)
    )
    _refuse_other(a, b, "places", one, other)
    _refuse_other(a, b, "question", a.description.get("question"), b.description.get("question"))
    _refuse_other_encoder(a, b, "text encoder", *(side.description.get("text_encoder") or {} for side in (a, b)))
    for name in sorted({name for side in (a, b) for name in side.description.get("vision_encoders") or {}}):
        seen = ((side.description.get("vision_encoders") or {}).get(name, {}) for side in (a, b))
        _refuse_other_encoder(a, b, f"vision encoder {name}", *seen)


def _refuse_other_encoder(
    a: Checkpoint, b: Checkpoint, what: str, one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    """Raises where two frozen encoders have not the same weights, or do not compute alike with them."""
    _refuse_other(a, b, what, one.get("fingerprint"), other.get("fingerprint"))
    configs = [side["config"] for side in (one, other) if side.get("config") is not None]
    if len(configs) == 2:
        _refuse_other(a, b, what, *(computation_of(AutoConfig.for_model(**config)) for config in configs))


def _refuse_other_models(a: Checkpoint, b: Checkpoint) -> None:
    for side in (a, b):
        if side.config.get("quantization_config"):
            fix = "use the model that was quantised"
            raise ConfigError("quantised weights cannot be blended", where=side.name, fix=fix)
    _refuse_other(a, b, "model_type", a.config.get("model_type"), b.config.get("model_type"))
    one, other = (
        computation_of(read_config(side.folder, "the model's config", side.name), NOT_COMPUTED) for side in (a, b)
    )
    fix = "blend two that compute alike; of one whose config is wrong, correct it"
    _refuse_other(a, b, "config", one, other, fix=fix)


def _is_low_rank(checkpoint: Checkpoint) -> bool:
    return any(LOW_RANK in name for name in checkpoint.weights.files)


def _load_base(adapter: Checkpoint, base: str) -> tuple[nn.Module, Any]:
    """The base of an adapter, in fp32."""
    if not base:
        fix = "give the base as one of the two, or save both as full models (yarbus.save)"
        raise CheckpointError("the adapter does not name its base", where=adapter.folder, fix=fix)
    model, processor = load_base(base)
    found, described = fingerprint(dict(model.named_parameters())), adapter.description["base"]
    if found != described["fingerprint"]:
        name = f"{described['class']} {described['name']}".rstrip()
        raise MismatchError(
            "adapter of another base",
            where=adapter.name,
            why=f"it was made for {name} {described['fingerprint']}, {base} is {found}",
            fix="give the base that the adapter names, or save the adapter's model whole (yarbus.save) and blend that",
        )
    return model, processor


def _base_tensors(adapter: Checkpoint, base: str, folder: Path) -> Weights:
    """The base's tensors that the adapter trained in place, in a file of their own."""
    state = _load_base(adapter, base)[0].state_dict()
    tensors = {}
    for name in adapter.weights.files:
        if name in state:  # as precise as the adapter's where that loses nothing: a 16-bit base was read as fp32
            like = state[name].to(adapter.weights.form(name).dtype)
            tensors[name] = like if torch.equal(like.to(state[name].dtype), state[name]) else state[name]
    forms = {name: Form(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(folder / BASE, forms, lambda name: tensors[name])
    return file_weights(folder / BASE)


def _whole(adapter: Checkpoint, base: str, build: Build, fold: Fold, folder: Path) -> Checkpoint:
    """The adapter on its base as a full model, low-rank updates in the weights."""
    model, processor = _load_base(adapter, base)
    model, processor = load_adapter(model, processor, adapter.folder, build)
    save(fold(model) if _is_low_rank(adapter) else model, processor, folder)
    return replace(open_checkpoint(folder), name=adapter.name)


def _folded(whole: Checkpoint, build: Build, fold: Fold, folder: Path) -> Checkpoint:
    """A full model that was saved with its low-rank updates beside the weights, again with them in the weights."""
    model, processor = load(whole.folder, build)
    save(fold(model), processor, folder)
    return replace(open_checkpoint(folder), name=whole.name)


def _pair_with_base(a: Checkpoint, b: Checkpoint, build: Build, fold: Fold, folder: Path) -> Pair:
    """One is an adapter, the other its base."""
    adapter, model = (a, b) if a.kind == "adapter" else (b, a)
    if model.description:
        _refuse_other_methods(a, b)
        raise mismatch("what was saved, a whole model or an adapter", a, b, (a.kind, b.kind))
    if not _is_low_rank(adapter):
        base = _base_tensors(adapter, model.name, folder)
        first, second = (base if side is model else side.weights for side in (a, b))
        return Pair(a=a, b=b, weights_a=first, weights_b=second, template=adapter.folder, base=model.name)
    folded, plain = _whole(adapter, model.name, build, fold, folder / "adapter"), model
    if plain.weights.files.keys() != folded.weights.files.keys():  # a version that names tensors otherwise wrote it
        save(*load_base(model.name), folder / "base")
        plain = replace(open_checkpoint(folder / "base"), name=model.name)
    one, other = (plain, folded) if a is model else (folded, plain)
    return _pair_of_models(a, b, one, other, is_folded=True)


def _pair_of_adapters(a: Checkpoint, b: Checkpoint, build: Build, fold: Fold, folder: Path) -> Pair:
    _refuse_other(a, b, "base", *(side.description["base"]["fingerprint"] for side in (a, b)))
    if _is_low_rank(a) or _is_low_rank(b):
        _refuse_other_methods(a, b)
        one, other = (_whole(side, side.base, build, fold, folder / str(n)) for n, side in enumerate((a, b)))
        return _pair_of_models(a, b, one, other, is_folded=True)
    pair = Pair(a=a, b=b, weights_a=a.weights, weights_b=b.weights, template=a.folder, base=a.base)
    _refuse_other_methods(a, b)
    return pair


def _pair_of_models(a: Checkpoint, b: Checkpoint, one: Checkpoint, other: Checkpoint, is_folded: bool = False) -> Pair:
    """``one`` and ``other`` are ``a`` and ``b`` as full models."""
    _refuse_other_models(one, other)
    pair = Pair(
        a=a, b=b, weights_a=one.weights, weights_b=other.weights, template=one.folder, base=None, is_folded=is_folded
    )
    _refuse_other_methods(one, other)
    return pair


@contextmanager
def blending(a: str | Path, b: str | Path, build: Build, fold: Fold, scratch: Path) -> Iterator[Pair]:
    """The pair of two checkpoints, each the folder of a run, an adapter or a model, or a model's name.

    What has to be made of them first lies in a folder in ``scratch`` and is gone when the pair is left.

    Raises:
        ConfigError: what is neither a run, an adapter nor a model.
        CheckpointError: one that has not finished or is damaged.
        MismatchError: another base, another method, or the first tensor that has no counterpart.
    """
    first, second = open_checkpoint(a), open_checkpoint(b)
    for side in (first, second):
        side.check()  # before the expensive work
    make_folder(scratch)
    folder = scratch / f".blending.{uuid4().hex}"
    folder.mkdir()
    try:
        if first.kind != second.kind:
            yield _pair_with_base(first, second, build, fold, folder)
        elif first.kind == "adapter":
            yield _pair_of_adapters(first, second, build, fold, folder)
        elif _is_low_rank(first) or _is_low_rank(second):
            _refuse_other_methods(first, second)
            one, other = (_folded(side, build, fold, folder / str(n)) for n, side in enumerate((first, second)))
            yield _pair_of_models(first, second, one, other, is_folded=True)
        else:
            yield _pair_of_models(first, second, first, second)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
