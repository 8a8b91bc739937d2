"""Folders of models by hub name: what is in the cache of the hub's own library, which fetches what is missing."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from yarbus.core.errors import ConfigError

FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""What is fetched, in sub-folders too: the star stands for slashes as well. Nothing that we read is a pickle."""
OPTIONS = frozenset({"revision", "cache_dir", "token", "local_files_only", "force_download"})
"""Of ``from_pretrained``: those that say where and how to fetch."""


def is_hub_name(folder: Path) -> bool:
    """Whether a path that is not there may be meant as ``NAME`` or ``OWNER/NAME``."""
    return not folder.exists() and len(folder.parts) <= 2 and not folder.is_absolute()


def from_hub(name: str, **options: Any) -> Path:
    """The model's folder. Raises ``ConfigError`` where there is no such model, or no way to it."""
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        fix = "give the folder of a run, an adapter or a model, or a hub name"
        raise ConfigError("no such model", where=name, why=why, fix=fix) from None
