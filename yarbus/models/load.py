"""Bases and processors from names, folders and plug-ins; nothing here runs remote code."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, ProcessorMixin
from transformers.utils import is_torchvision_available

from yarbus.core.errors import ConfigError
from yarbus.core.parts import is_parts, parts_of
from yarbus.core.plugins import resolve
from yarbus.models.design import Design, architecture_of
from yarbus.models.parts import build
from yarbus.models.pretrained import read_weights, reason
from yarbus.models.registers import restore_dropping
from yarbus.models.vlm import FAMILIES, TOWERS


def _own_processor(config: Any) -> str | None:
    """The processor of the family, else that of the tower, for where there is no torchvision."""
    if type(config).__name__ not in FAMILIES:
        return None
    family = FAMILIES[type(config).__name__]
    vision = type(getattr(config, family.vision_config, None)).__name__
    return family.processor or (TOWERS[vision].processor if vision in TOWERS else None)


def load_processor(base: str | Path, config: Any) -> Any:
    """The processor of a base. Where the library's needs torchvision and there is none, one of ours is used."""
    own = _own_processor(config)
    try:
        if own is not None and not is_torchvision_available():
            module, _, name = own.partition(":")
            return getattr(import_module(module), name).from_pretrained(base)
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            "cannot load the processor", where=base, why=reason(error), fix="give a base that has one"
        ) from None
    if not isinstance(processor, ProcessorMixin):
        raise ConfigError(
            "cannot load the processor",
            where=base,
            why=f"its class is unknown here, so that transformers gave its {type(processor).__name__} alone",
            fix="give a base whose processor_class this transformers has",
        )
    return processor


def _refuse_unknown(config: Any) -> None:
    name = type(config).__name__
    if name not in FAMILIES:
        raise ConfigError(
            f"unknown model family '{name}'",
            why=f"supported: {', '.join(sorted(FAMILIES))}",
            fix=f"declare it: yarbus.models.vlm.declare(Family(config='{name}', ...))",
        )


def config_of(base: str) -> Any:
    """The config of a base by hub name, folder or ``plug-in:path``, or of one from parts; its family must be known."""
    if is_parts(base):
        return architecture_of(parts_of(base))
    try:
        config = AutoConfig.from_pretrained(resolve(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot load base model '{base}'", why=reason(error), fix="give a hub name, or a folder with config.json"
        ) from None
    _refuse_unknown(config)
    return config


def load_base(base: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """Model and processor by hub name, folder or ``plug-in:path``, or built from the parts that the name lists.

    Raises ``ConfigError`` naming what is missing, before any weight is read.
    """
    if is_parts(base):
        return build(Design.of(parts_of(base)), dtype)
    path, config = resolve(base), config_of(base)
    try:
        model, report = read_weights(AutoModelForImageTextToText, path, config, dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"cannot load base model '{base}'",
            why=reason(error),
            fix="give a hub name, or a folder with plain safetensors",
        ) from None
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if report["missing_keys"]:
        raise ConfigError(
            f"base model '{base}' lacks {len(report['missing_keys'])} tensors",
            where=wrong[0],
            fix="use a complete copy",
        )
    model.config._name_or_path = str(base)
    restore_dropping(model)
    return model, load_processor(path, config)


def _architecture(config: dict[str, Any]) -> Any:
    """A config object of the values that a recipe writes; its family must be known."""
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ConfigError("model.config names no model_type", fix="add model_type, for instance llava")
    try:
        built = AutoConfig.for_model(model_type, **settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError("model.config is no architecture", why=reason(error), fix="correct it") from None
    _refuse_unknown(built)
    return built


def base_on_meta(config: dict[str, Any]) -> nn.Module:
    """A base from its architecture config without weights, for ``plan``."""
    built = _architecture(config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(built, trust_remote_code=False)
    restore_dropping(model)
    return model


def random_base(config: dict[str, Any], device: torch.device) -> nn.Module:
    """A base from its architecture config with weights drawn at random in fp32, to measure what it costs."""
    built = _architecture(config)
    with device:
        model = AutoModelForImageTextToText.from_config(built, trust_remote_code=False, dtype=torch.float32)
    restore_dropping(model)
    return model
