"""Bases and processors from names, folders and plug-ins; nothing here runs remote code."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import is_torchvision_available

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.vlm import FAMILIES


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load_processor(base: str | Path, config: Any) -> Any:
    """The processor of a base. Where the library's needs torchvision and there is none, the family's own is used."""
    own = FAMILIES[type(config).__name__].processor if type(config).__name__ in FAMILIES else None
    try:
        if own is not None and not is_torchvision_available():
            module, _, name = own.partition(":")
            return getattr(import_module(module), name).from_pretrained(base)
        return AutoProcessor.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            "cannot load the processor", where=base, why=_reason(error), fix="give a base that has one"
        ) from None


def config_of(base: str) -> Any:
    """The config of a base by hub name, folder or ``plug-in:path``; its family must be known."""
    try:
        config = AutoConfig.from_pretrained(resolve(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot load base model '{base}'", why=_reason(error), fix="give a hub name, or a folder with config.json"
        ) from None
    FAMILIES[type(config).__name__]
    return config


def load_base(base: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    """Model and processor by hub name, folder or ``plug-in:path``.

    Raises ``ConfigError`` naming what is missing, before any weight is read.
    """
    path, config = resolve(base), config_of(base)
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,  # nothing we read is a pickle
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"cannot load base model '{base}'",
            why=_reason(error),
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
    return model, load_processor(path, config)


def base_on_meta(config: dict[str, Any]) -> nn.Module:
    """A base from its architecture config without weights, for ``plan``."""
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ConfigError("model.config names no model_type", fix="add model_type, for instance llava")
    try:
        built = AutoConfig.for_model(model_type, **settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError("model.config is no architecture", why=_reason(error), fix="correct it") from None
    FAMILIES[type(built).__name__]
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(built, trust_remote_code=False)
