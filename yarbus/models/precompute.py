"""Encoding questions before training, once, so that training reads them from a folder."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from warnings import warn

from torch import distributed, nn

from yarbus.core.errors import ConfigError
from yarbus.core.progress import progress_of
from yarbus.models.attachment import attachment_of
from yarbus.models.feature_cache import FeatureCache
from yarbus.models.processor import ContextProcessorMixin
from yarbus.models.text_cache import Text, TextCache
from yarbus.models.text_encoder import TextEncoder

MIB = 2**20


def precompute(
    model: nn.Module,
    processor: Any,
    texts: Iterable[str],
    folder: str | Path,
    *,
    limit_mib: int = 20_000,
    progress: bool = True,
) -> int:
    """Encodes the texts that the folder does not hold yet; from now on the model's text encoder looks there first.

    Each is encoded alone, as while training: what is read is what would be computed, bit for bit. Several processes
    share the work where they train together. A folder that may not be written is read, with a warning.

    Args:
        model: with methods that read the question, on the device on which it will train: a Trainer moves it when it is
            made.
        processor: the one that ``attach`` returned.
        texts: what the eyes will be told, as for ``context=``. Another text is encoded when it is asked.
        folder: made if it does not exist; it may be shared, and deleted at any time.
        limit_mib: most that the folder takes; what was used longest ago goes first.

    Returns:
        How many were encoded.

    Raises:
        ConfigError: nothing reads the question, or the texts do not fit within the limit.
        CheckpointError: the disk is full, or the folder cannot be made.
    """
    encoder: TextEncoder | None = getattr(model.base_model, "context_encoder", None)
    if encoder is None or not isinstance(processor, ContextProcessorMixin) or not processor.asks:
        fix = "attach a method that reads the question, and pass the processor that attach returned"
        raise ConfigError("no text encoder to precompute with", fix=fix)
    reads_tokens = any(method.reads_question_tokens for method in attachment_of(model).places.values())
    cache = TextCache(FeatureCache(folder, limit_mib * MIB, called="text_cache"), reads_tokens)
    asked = list(dict.fromkeys(map(tuple, processor.context_rows(list(texts)))))
    _refuse_too_many(asked, encoder, cache)
    encoder.look_in(cache)
    rank, world = _share()
    missing = [text for text in asked[rank::world] if not encoder.is_kept(text)]
    if missing and cache.files.is_read_only:
        told = f"{len(missing)} of {len(asked)} questions are not in it, and are encoded while training"
        warn(f"the text cache may not be written: {cache.files.folder} - {told}", stacklevel=2)
        missing = []
    with progress_of("encode questions", len(missing), progress and rank == 0) as advance:
        for text in missing:
            encoder.keep(text)
            advance(1)
    if world > 1:
        distributed.barrier()  # nobody begins while a text of another's share is missing
    return len(missing)


def _share() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _refuse_too_many(asked: list[Text], encoder: TextEncoder, cache: TextCache) -> None:
    """Raises before any work where some of the texts would drive out others."""
    dtype = next(encoder.parameters()).dtype
    needed = cache.bytes_of(asked, encoder.dim, dtype)
    if needed > cache.files.room:
        what = "token states" if cache.has_tokens else "pooled vectors"
        least = math.ceil(needed * cache.files.limit_bytes / cache.files.room / MIB)
        raise ConfigError(
            f"the {what} of {len(asked)} questions do not fit into the text cache",
            where=cache.files.folder,
            why=f"its limit is {cache.files.limit_bytes // MIB} MiB",
            fix=f"set text_cache_mib to {least} or more, or leave text_cache out",
        )
