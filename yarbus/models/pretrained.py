"""What is read from a folder or under a hub name: configs, encoders, why one could not be read, and which one it is."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from yarbus.core.errors import ConfigError
from yarbus.models import cumo  # noqa: F401 - makes its model type known to transformers' Auto classes
from yarbus.models.feature_cache import digest_of
from yarbus.models.image_processors import load_image_processor

FAILURES = (OSError, ValueError, TypeError, RuntimeError, ImportError, KeyError, SafetensorError, StrictDataclassError)
"""What the library raises for a model that is not there or not what it should be."""
OF_THE_FILE = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
"""Entries of a config that say where the weights were read and not what is computed with them."""


def reason(error: Exception) -> str:
    """The first line of what the library says; the error's class where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def computation_of(config: Any, besides: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What a config says of what is computed, as JSON holds it: where two say the same, equal weights are one function.

    ``besides``: further entries to leave out.
    """
    return _without(json.loads(json.dumps(config.to_dict(), default=str)), OF_THE_FILE | besides)


def _without(value: Any, names: frozenset[str]) -> Any:
    """A JSON value without these entries, at every depth."""
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items() if key not in names}
    return [_without(one, names) for one in value] if isinstance(value, list) else value


def config_hash(config: Any) -> str:
    """A hash of what a config says of what is computed."""
    return hashlib.sha256(json.dumps(computation_of(config), sort_keys=True).encode()).hexdigest()[:16]


def identity_of(model: nn.Module) -> str:
    """What tells a model from every other that would give other numbers: its config, its attention, each bit of it."""
    told: tuple[str, ...] = (type(model).__name__,)
    if isinstance(model, PreTrainedModel):
        told = (*told, config_hash(model.config), str(model.config._attn_implementation))
    digest = hashlib.sha256(repr(told).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(digest_of(name, tensor.cpu()).numpy().tobytes())
    return digest.hexdigest()


def read_config(path: str | Path, what: str, where: object) -> Any:
    """The config in a folder or under a hub name; raises ``ConfigError`` with the reason where there is none.

    ``what`` and ``where``: the thing and its name in a message.
    """
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except FAILURES as error:
        fix = "give a hub name, or a folder with config.json"
        raise ConfigError(f"cannot load {what}", where=where, why=reason(error), fix=fix) from None


def encoder_without_weights(config: Any, what: str, where: object) -> PreTrainedModel:
    """A model of that architecture, on the device of the moment; raises ``ConfigError`` where none is known."""
    try:
        return AutoModel.from_config(config, trust_remote_code=False)
    except FAILURES as error:
        fix = "give the name or folder of a vision model"
        raise ConfigError(f"cannot load {what}", where=where, why=reason(error), fix=fix) from None


def read_weights(
    auto: Any, path: str | Path, config: Any, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """What one of the library's ``AutoModel...`` makes of a folder or hub name, and its report of what did not fit.

    Reads no pickle and runs no remote code.
    """
    return auto.from_pretrained(
        path, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )


def read_encoder(
    path: str | Path, config: Any, dtype: torch.dtype, what: str, where: object
) -> tuple[PreTrainedModel, Any]:
    """A model with all its tensors, and its image processor. Raises ``ConfigError`` with what is missing.

    What it does not need is left: the other half of a model with words, or a head for another use.
    """
    try:
        image_processor = load_image_processor(path)
        model, report = read_weights(AutoModel, path, config, dtype)
    except FAILURES as error:
        fix = "give the name or folder of a vision model with safetensors and preprocessor_config.json"
        raise ConfigError(f"cannot load {what}", where=where, why=reason(error), fix=fix) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:  # a frozen encoder with random tensors would be noise for ever
        why = f"it lacks {len(missing)} tensors, the first is {missing[0]}"
        raise ConfigError(f"cannot load {what}", where=where, why=why, fix="give a complete copy")
    return model, image_processor
