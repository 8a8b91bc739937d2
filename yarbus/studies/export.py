"""A finished run as a folder that others can use: an ordinary Hugging Face model where that is possible.

Methods that train tensors in place (full, bitfit, layernorm, a head's lm_head) have nothing to fold, LoRA's update goes
into the weights beside it, and a blend (``yarbus interpolate``) is what its two sides are. What is left then decides:
without an inserted module the result is plain; with one it is a full yarbus model, which plain loaders refuse. A model
from parts whose registers are dropped is neither: its tensors are ordinary, but only Yarbus drops them.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.folders import appearing, check_free
from yarbus.core.plugins import resolve
from yarbus.core.records import write_json, write_text
from yarbus.methods.lora import LoRA, fold
from yarbus.models.attachment import attachment_of, is_attached
from yarbus.models.processor import detach_from_processor
from yarbus.models.registers import drops_registers
from yarbus.models.save import save
from yarbus.report.runs import Run, read_run
from yarbus.studies.card import card
from yarbus.studies.servers import Kind, verdicts
from yarbus.training.run import load_run

RECORD = "export.json"
Dtype = Literal["float32", "bfloat16", "float16"]
NOTHING = ("frozen", "none")
"""Methods that train nothing."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and who honours it."""

    folder: Path
    base: str
    kind: Kind
    folded: tuple[str, ...]
    """Places whose low-rank update is in the weights now."""
    stays: dict[str, str]
    """Place -> method whose modules are still beside or instead of the base's."""
    dtype: str
    servers: list[dict[str, str]]
    url: str | None = None
    """Where it was uploaded."""

    @property
    def is_plain(self) -> bool:
        """Whether plain transformers computes the same."""
        return self.kind == "plain"

    def to_json(self) -> dict[str, Any]:
        """As ``export.json`` and ``--json`` have it."""
        return {
            "schema": 1,
            "yarbus": version("yarbus"),
            "base": self.base,
            "kind": self.kind,
            "folded": list(self.folded),
            "stays": self.stays,
            "dtype": self.dtype,
            "servers": self.servers,
        }


def foldable(model: nn.Module) -> list[str]:
    """Places whose update can be put into the base's own weights."""
    if not is_attached(model):
        return []
    return [place for place, method in attachment_of(model).places.items() if isinstance(method, LoRA)]


def _stays(model: nn.Module) -> dict[str, str]:
    """Place -> method of which a module is left that no plain model has."""
    if not is_attached(model):
        return {}
    attachment = attachment_of(model)
    found = {trained.place for name, trained in attachment.parameters.items() if attachment.is_new(name)}
    return {place: attachment.places[place].name for place in attachment.places if place in found}


def _specs(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What each place that trained held, as a recipe says it."""
    if not is_attached(model):
        return {}
    methods = attachment_of(model).places
    return {place: method.spec() for place, method in methods.items() if method.name not in NOTHING}


def export(
    source: str | Path,
    folder: str | Path,
    *,
    dtype: Dtype | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
) -> Exported:
    """Writes a finished run as an ordinary Hugging Face folder where it can be one, else as a full yarbus model.

    Logits are those of the run (folding sums in fp32: equal within rounding). Beside weights and processor the folder
    holds a model card (``README.md``) written from the run, and ``export.json``. It appears when all of it is on the
    disk, and nothing is ever overwritten.

    Args:
        source: the folder of a run, of an adapter or of a model (a blend, for instance).
        folder: to be written; it must not exist, or be empty.
        dtype: precision of the weights; as they were trained (float32) if left out.
        push_to_hub: hub repository (``NAME`` or ``OWNER/NAME``) to which the folder is uploaded afterwards; made if it
            does not exist, with ``private`` as a private one.

    Raises:
        ConfigError: something in ``folder`` already, no such run, or a name that cannot be one.
        CheckpointError: a run that has not finished, a damaged file, or an upload that failed (the folder stays).
    """
    out = Path(folder)
    check_free(out)
    if push_to_hub is not None:
        _check_name(push_to_hub)
    elif private:
        raise ConfigError("private without a repository", fix="name one to push to, or leave private out")
    model, processor = load_run(source)
    places, base = _specs(model), _base_of(model, source)
    folded = foldable(model)
    if folded:
        model = fold(model)
    stays = _stays(model)
    kind: Kind = "full" if stays else "registers" if drops_registers(model) else "plain"
    if not stays and processor is not None:
        detach_from_processor(processor)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    written = str(next(model.parameters()).dtype).removeprefix("torch.")
    servers = verdicts(kind)
    exported = Exported(
        folder=out, base=base, kind=kind, folded=tuple(folded), stays=stays, dtype=written, servers=servers
    )
    text = card(
        name=push_to_hub or out.name,
        base=base,
        places=places,
        folded=folded,
        kind=kind,
        dtype=written,
        servers=servers,
        run=_run_of(source),
    )
    with appearing(out) as beside:
        save(model, processor, beside)
        write_text(beside / "README.md", text)
        write_json(beside / RECORD, exported.to_json())
    if push_to_hub is None:
        return exported
    return Exported(**{**vars(exported), "url": _push(out, push_to_hub, private)})


def _base_of(model: nn.Module, source: str | Path) -> str:
    if is_attached(model):
        return attachment_of(model).base_name
    return getattr(model.config, "_name_or_path", "") or str(source)


def _run_of(source: str | Path) -> Run | None:
    folder = Path(resolve(str(source)))
    return read_run(folder) if (folder / "recipe.yaml").is_file() else None


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        why = next(iter(str(error).splitlines()))
        raise ConfigError(f"'{name}' is no repository", why=why, fix="write NAME or OWNER/NAME") from None


def _push(folder: Path, name: str, private: bool) -> str:
    """Uploads the folder as one commit; returns its address."""
    api = HfApi()
    try:
        created = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Upload with yarbus export")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        fix = f"log in with 'hf auth login', then upload the folder: hf upload {name} {folder}"
        raise CheckpointError("cannot upload", where=name, why=why, fix=fix) from None
    return str(created)
