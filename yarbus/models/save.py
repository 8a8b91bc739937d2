"""Writing and reading what was attached: adapters beside their base, and full models.

An adapter folder holds ``adapter.safetensors`` (everything added or trained), ``adapter.json``
(methods, base and its fingerprint, hash of the tensors, folders that belong to it), and for methods
that read the question the context tokenizer and the text encoder (copied if it came from a folder,
else by name and fingerprint). Nothing is a pickle.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from yarbus.core.errors import CheckpointError, MismatchError
from yarbus.core.plugins import resolve
from yarbus.models.attach import detach, follow, refuse_wrapped, set_requires_grad, set_stage
from yarbus.models.attachment import (
    Method,
    adapter_tensors,
    attachment_of,
    is_attached,
    load_adapter_tensors,
)
from yarbus.models.encoders import FOLDER, EncoderSpec, VisionEncoder, encoder_from_config, encoders_of, load_encoder
from yarbus.models.fingerprint import fingerprint
from yarbus.models.hub import OPTIONS, from_hub, is_hub_name
from yarbus.models.image_processors import load_image_processor
from yarbus.models.load import load_processor
from yarbus.models.pretrained import computation_of, reason
from yarbus.models.processor import TOKENIZER_FOLDER, attach_to_processor
from yarbus.models.question import Question
from yarbus.models.registers import restore_dropping
from yarbus.models.text_encoder import (
    TextEncoder,
    load_context_tokenizer,
    load_text_encoder,
    read_tokenizer,
    special_ids,
    text_encoder_from_config,
)
from yarbus.models.vlm import VLM
from yarbus.models.wrapper import VARIANT, context_class

SCHEMA = 1
ENCODER_FOLDER = "text_encoder"
DESCRIBED = {"schema", "yarbus", "base", "places", "question", "text_encoder", "sha256"}
"""Entries of ``adapter.json`` that loading needs."""
Build = Callable[[Mapping[str, Any]], dict[str, Method]]
"""Method words -> methods; ``methods`` brings it, since models do not know methods by name."""


def _without_path(config: dict[str, Any]) -> dict[str, Any]:
    """A config without the folder it was read from, which means nothing on another machine."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def describe(model: nn.Module) -> dict[str, Any]:
    """What has to be known to attach the same again."""
    attachment = attachment_of(model)
    encoder: TextEncoder | None = getattr(model.base_model, "context_encoder", None)
    text = None
    if encoder is not None:
        encoder_config = getattr(encoder.encoder, "config", None)
        text = {
            "name": encoder.name,
            "dim": encoder.dim,
            "fingerprint": fingerprint(encoder.state_dict()),
            "special_ids": sorted(model.base_model.context_special_ids),  # type: ignore[arg-type]
            "config": None if encoder_config is None else _without_path(encoder_config.to_dict()),
        }
    return {
        "schema": SCHEMA,
        "yarbus": version("yarbus"),
        "base": {
            "class": attachment.base_class,
            "name": attachment.base_name,
            "fingerprint": attachment.base_fingerprint,
        },
        "places": {place: method.spec() for place, method in attachment.places.items()},
        "active": sorted(attachment.active),
        "reads_prompt": any(method.reads_prompt for method in attachment.places.values()),
        "folded": sorted(attachment.folded),
        "question": asdict(attachment.question) if attachment.question else None,
        "text_encoder": text,
        "vision_encoders": {
            name: {
                "path": encoder.spec.path,
                "layer": encoder.spec.layer,
                "fingerprint": encoder.fingerprint,
                "config": _without_path(encoder.model.config.to_dict()),  # type: ignore[operator, union-attr]
            }
            for name, encoder in encoders_of(model.base_model).items()  # type: ignore[arg-type]
        },
    }


def save_adapter(model: nn.Module, folder: str | Path, processor: Any = None) -> None:
    """Writes what was added or trained, and what is needed to attach it to the same base again.

    Args:
        model: a model with something attached.
        folder: made if it does not exist.
        processor: the processor that ``attach`` returned, whose context tokenizer goes into the folder. Without it
            a text encoder that came from a folder brings its own tokenizer, any other is found by name.
    """
    folder = Path(folder)
    folded = attachment_of(model).folded
    if folded:
        raise CheckpointError(
            f"an adapter would lack what was folded into the weights: {', '.join(sorted(folded))}",
            where=folder,
            fix="save the full model, or the adapter before folding",
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    if not tensors:
        raise CheckpointError("the adapter would be empty", where=folder, fix="attach a method that trains something")
    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise CheckpointError(f"tensor '{bad}' holds NaN or infinity", where=folder, fix="save an earlier checkpoint")
    save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})
    description = describe(model)
    description["sha256"] = _sha256(folder / "adapter.safetensors")
    description["parts"] = _write_parts(model, folder, processor)
    (folder / "adapter.json").write_text(json.dumps(description, indent=1, sort_keys=True))


def _write_parts(model: nn.Module, folder: Path, processor: Any) -> list[str]:
    """Writes what the adapter needs besides its tensors; returns the folders, so that no older one passes for its."""
    parts = []
    encoder: TextEncoder | None = getattr(model.base_model, "context_encoder", None)
    if encoder is not None and encoder.folder is not None and encoder.encoder is not None:
        tokenizer = load_context_tokenizer(encoder, processor)
        encoder.encoder.save_pretrained(folder / ENCODER_FOLDER)  # type: ignore[operator]
        tokenizer.save_pretrained(folder / ENCODER_FOLDER)
        parts.append(ENCODER_FOLDER)
    for name, further in encoders_of(model.base_model).items():  # type: ignore[arg-type]
        if further.folder is not None:
            further.model.save_pretrained(folder / FOLDER / name)  # type: ignore[operator]
            further.image_processor.save_pretrained(folder / FOLDER / name)
            parts.append(f"{FOLDER}/{name}")
    if processor is not None and hasattr(processor, "context_tokenizer"):
        processor.context_tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
        parts.append(TOKENIZER_FOLDER)
    return parts


def _part(folder: Path, description: Mapping[str, Any], part: str) -> Path | None:
    """Where the adapter keeps a part; None where it has none. Adapters without a list have what lies beside them."""
    path = folder / part
    told = description.get("parts")
    if told is not None and part in told and not path.is_dir():
        raise CheckpointError("damaged adapter", where=path, why="the folder is missing", fix="use another copy")
    return path if path.is_dir() and (told is None or part in told) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """What ``adapter.json`` says; raises ``CheckpointError`` for what ``save_adapter`` did not write."""
    path = folder / "adapter.json"
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            "not an adapter", where=folder, why="it has no adapter.json", fix="give a folder that save_adapter wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError("damaged adapter", where=path, why=str(error), fix="use another copy") from None
    if not isinstance(description, dict) or not description.keys() >= DESCRIBED:
        raise CheckpointError("damaged adapter", where=path, why="entries are missing", fix="use another copy")
    if description["schema"] != SCHEMA:
        raise CheckpointError(
            "adapter of another version",
            where=path,
            why=f"written by yarbus {description['yarbus']}",
            fix="update yarbus",
        )
    return description


def _read_tensors(folder: Path, description: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / "adapter.safetensors"
    try:
        if _sha256(path) != description["sha256"]:
            raise CheckpointError(
                "damaged adapter", where=path, why="its sha256 is not the one in adapter.json", fix="use another copy"
            )
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError("damaged adapter", where=path, why=str(error), fix="use another copy") from None


def load_adapter(model: nn.Module, processor: Any, folder: Path, build: Build) -> tuple[nn.Module, Any]:
    """Attaches the adapter in ``folder`` to the base it was made for; nothing is changed if anything does not fit.

    Raises:
        MismatchError: another base (both fingerprints), another text encoder, or tensors that do not fit.
        CheckpointError: a damaged or incomplete folder.
    """
    refuse_wrapped(model)
    description = read_description(folder)
    tensors = _read_tensors(folder, description)
    if is_attached(model):
        raise MismatchError("something is attached to this model already", where=folder, fix="load it on a fresh base")
    base, found = description["base"], fingerprint(dict(model.named_parameters()))
    if base["fingerprint"] != found:
        raise MismatchError(
            "adapter of another base",
            where=folder,
            why=f"it was made for {base['class']} {base['name']} {base['fingerprint']}, "
            f"this is {type(model).__name__} {found}",
            fix="load the base that the adapter names",
        )
    places = build(description["places"])
    question = Question(**description["question"]) if description["question"] else None
    encoder = _adapter_text_encoder(folder, description, model)
    tokenizer = None
    if encoder is not None and processor is not None:
        tokenizer = _adapter_tokenizer(folder, description, encoder, processor)
    further = _adapter_vision_encoders(folder, description, model)
    set_stage(model, None, places, text_encoder=encoder, vision_encoders=further, question=question)
    try:
        load_adapter_tensors(model, tensors)
    except BaseException:
        detach(model)
        raise
    if encoder is not None:
        model.base_model.context_special_ids = frozenset(description["text_encoder"]["special_ids"])  # type: ignore[union-attr]
        if tokenizer is not None:
            attach_to_processor(processor, tokenizer, question or Question(), encoder.limit)
    if processor is not None:
        follow(processor, model)
    return model, processor


def _refuse_other_encoder(
    what: str, where: object, told: Mapping[str, Any], found: str, encoder: nn.Module | None
) -> None:
    """Raises where a frozen encoder has not the weights, or does not compute with them, as in training."""
    fix = "use the encoder that the adapter names"
    if found != told["fingerprint"]:
        why = f"the adapter was trained with {told['fingerprint']}, this is {found}"
        raise MismatchError(f"{what} is another one", where=where, why=why, fix=fix)
    if told.get("config") is None or encoder is None:
        return
    # An entry that this version of the library has no more cannot be heard.
    then, now = computation_of(AutoConfig.for_model(**told["config"])), computation_of(encoder.config)
    for key in now:
        if then.get(key) != now[key]:
            why = f"the adapter was trained with {key} {then.get(key)}, this has {now[key]}"
            raise MismatchError(f"{what} is another one", where=where, why=why, fix=fix)


def _adapter_vision_encoders(
    folder: Path, description: Mapping[str, Any], model: nn.Module
) -> dict[str, VisionEncoder]:
    encoders = {}
    for name, one in sorted((description.get("vision_encoders") or {}).items()):
        copied = _part(folder, description, f"{FOLDER}/{name}")
        spec = EncoderSpec(one["path"], one["layer"])
        encoders[name] = load_encoder(name, spec, VLM.of(model), None if copied is None else str(copied))
        now = encoders[name]
        _refuse_other_encoder(f"vision encoder '{name}'", now.source, one, now.fingerprint, now.model)
    return encoders


def _saved_tokenizer(path: Path) -> Any:
    """The context tokenizer in a folder beside a model or an adapter."""
    if not path.is_dir():
        raise CheckpointError(
            "the context tokenizer is missing",
            where=path,
            why="the features of this model depend on the question",
            fix="save model and processor again (yarbus.save), or use another copy",
        )
    try:
        return read_tokenizer(path)
    except ValueError as error:
        raise CheckpointError(
            "cannot read the context tokenizer", where=path, why=str(error), fix="use another copy"
        ) from None


def _adapter_tokenizer(folder: Path, description: Mapping[str, Any], encoder: TextEncoder, processor: Any) -> Any:
    """The context tokenizer of an adapter, with the special tokens that it had in training."""
    copied = _part(folder, description, TOKENIZER_FOLDER) or _part(folder, description, ENCODER_FOLDER)
    tokenizer = load_context_tokenizer(encoder, processor) if copied is None else _saved_tokenizer(copied)
    told, found = description["text_encoder"]["special_ids"], sorted(special_ids(tokenizer))
    if told and told != found:  # none are told of a model that was attached without a processor
        raise MismatchError(
            "the context tokenizer is another one",
            where=encoder.source if copied is None else copied,
            why=f"the adapter was trained with special tokens {told}, this has {found}",
            fix="use the tokenizer of the text encoder that the adapter names",
        )
    return tokenizer


def _adapter_text_encoder(folder: Path, description: Mapping[str, Any], model: nn.Module) -> TextEncoder | None:
    text = description["text_encoder"]
    if text is None:
        return None
    copied = _part(folder, description, ENCODER_FOLDER)
    encoder = load_text_encoder(text["name"], VLM.of(model), None if copied is None else str(copied))
    what = f"text encoder '{encoder.name}'"
    _refuse_other_encoder(what, folder, text, fingerprint(encoder.state_dict()), encoder.encoder)
    return encoder


def save(model: nn.Module, processor: Any, folder: str | Path) -> None:
    """Writes the full model and its processor.

    If modules were inserted, weights carry the variant ``yarbus``, so that plain ``AutoModel`` refuses the folder
    instead of filling what it does not know with random numbers.
    """
    folder = Path(folder)
    model.save_pretrained(folder)  # type: ignore[operator]
    if processor is not None:
        processor.save_pretrained(folder)


def _config_of(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "not a model", where=folder, why=reason(error), fix="give a folder that yarbus.save wrote"
        ) from None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CheckpointError(
            "not a vision-language model",
            where=folder,
            why=f"its config is a {type(config).__name__}",
            fix="give a folder that yarbus.save wrote",
        )
    return config


def load(folder: Path, build: Build, **kwargs: Any) -> tuple[nn.Module, Any]:
    """Reads what ``save`` wrote: a folder, ``plug-in:path`` or a hub name. ``kwargs`` go to ``from_pretrained`` (dtype,
    device_map), and those that say how to fetch (revision, token) to the hub.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or the folder holds no model.
        ConfigError: neither a folder nor a hub name.
    """
    name = str(folder)
    folder, hub = Path(resolve(name)), {key: kwargs.pop(key) for key in OPTIONS & kwargs.keys()}
    if is_hub_name(folder):
        folder = from_hub(name, **hub)
    config = _config_of(folder)
    plain = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    description = getattr(config, "yarbus", None)
    reads_question = description is not None and description["text_encoder"] is not None
    tokenizer = _saved_tokenizer(folder / TOKENIZER_FOLDER) if reads_question else None
    cls = plain if description is None else _class_with_structure(plain, description, build)
    options = {"output_loading_info": True, "use_safetensors": True, **kwargs}
    if description is not None:
        options |= {"config": config, "variant": VARIANT}
    try:
        model, report = cls.from_pretrained(folder, trust_remote_code=False, **options)  # type: ignore[attr-defined, union-attr]
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            "cannot read the weights", where=folder, why=reason(error), fix="use another copy"
        ) from None
    if description is not None:
        model.__class__ = context_class(plain, tuple(sorted(description.get("vision_encoders") or ())))
        del model.config.yarbus
    wrong = [(kind, name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors do not fit",
            where=f"{folder}:{wrong[0][1]}",
            why=wrong[0][0].replace("_keys", ""),
            fix="save the model again, or use another copy",
        )
    restore_dropping(model)
    model.config._name_or_path = name
    processor = load_processor(folder, config)
    if description is not None:
        attachment = attachment_of(model)
        set_requires_grad(model, attachment)  # reading weights made new parameters, all of which would train
        base = description["base"]
        attachment.base_class, attachment.base_name = base["class"], base["name"]
        attachment.base_fingerprint = base["fingerprint"]
        if tokenizer is not None:
            model.base_model.context_special_ids = frozenset(description["text_encoder"]["special_ids"])
            limit, question = model.base_model.context_encoder.limit, attachment.question or Question()
            attach_to_processor(processor, tokenizer, question, limit)
        for encoder, one in encoders_of(model.base_model).items():
            one.image_processor = load_image_processor(folder / FOLDER / encoder)
        follow(processor, model)
        # The base's own networks were never there: a model loaded whole cannot be detached to its base.
        attachment.replaced.clear()
        attachment.folded = set(description.get("folded", ()))
        attachment.was_loaded_whole = True
    return model, processor


def _class_with_structure(plain: type, description: Mapping[str, Any], build: Build) -> type:
    """A class whose ``__init__`` attaches before the weights are read into it."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - becomes a method below
        plain.__init__(self, config, *args, **kwargs)  # type: ignore[misc]
        text, encoder = description["text_encoder"], None
        if text is not None:
            text_config = None
            if text["config"] is not None:
                text_config = AutoConfig.for_model(**text["config"])
            encoder = text_encoder_from_config(text["name"], text["dim"], text_config, VLM.of(self))
        question = Question(**description["question"]) if description["question"] else None
        places = build(description["places"])
        further = {
            name: encoder_from_config(EncoderSpec(one["path"], one["layer"]), one["config"])
            for name, one in sorted((description.get("vision_encoders") or {}).items())
        }
        self.__class__ = plain  # set_stage swaps the class itself
        set_stage(self, None, places, text_encoder=encoder, vision_encoders=further, question=question)
        # While weights are read the class must be the library's: it looks up renamed tensors by class name.
        self.__class__ = plain

    return type(f"Loading{plain.__name__}", (plain,), {"__init__": __init__, "__module__": __name__})
