"""Features of pictures from a frozen model, one vector per question, computed once and kept on disk in fp32.

A bare encoder gives what ``models.bare_encoder`` says: ``pooled`` or ``patches``. A vision-language model is shown
picture and question, up to where the answer begins, and gives ``last`` (its final hidden state at the last position),
``mean`` (over all positions, those of the picture too), or ``vision`` (the mean of what its tower hands the projector).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.progress import progress_of
from yarbus.data.collate import prompt_batch
from yarbus.data.image import open_image
from yarbus.data.sample import Sample
from yarbus.evaluation.identity import SampleHashes, function_fingerprint, prompt_fingerprint
from yarbus.models.bare_encoder import BareEncoder, Feature
from yarbus.models.feature_cache import FeatureCache
from yarbus.models.observe import evaluating, observe

OF_ENCODER: tuple[str, ...] = get_args(Feature)
OF_LANGUAGE_MODEL = ("last", "mean", "vision")
LIMIT_BYTES = 16 * 2**30
"""Of a run's features on disk; what was used longest ago goes first."""


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """Something that turns questions into vectors, and what these depend on."""

    feature: str
    read: Callable[[Sequence[Sample]], Tensor]
    """Questions -> ``[questions, dim]`` fp32 on the CPU."""
    identity: str
    """Changes whenever a vector would: weights, architecture, preparation of inputs, kind of feature."""
    name: str = ""
    """What a reader calls it."""


def _one_of(feature: str | None, known: Sequence[str], of: str) -> str:
    chosen = known[0] if feature is None else feature
    if chosen not in known:
        raise ConfigError(f"{of} has no feature '{chosen}'", fix=f"use one of: {', '.join(known)}")
    return chosen


def eyes_of_encoder(encoder: BareEncoder, feature: str | None = None) -> Eyes:
    """The features of a bare encoder: of the picture alone, whatever the question."""
    chosen: Any = _one_of(feature, OF_ENCODER, "an encoder")

    def read(samples: Sequence[Sample]) -> Tensor:
        pictures = [open_image(sample.images[0]) for sample in samples]
        return encoder.image_features(pictures, chosen).cpu()

    shown = sha256()
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    for name, value in sorted(encoder.pixels([picture]).items()):
        shown.update(f"{name} {tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    identity = f"{function_fingerprint(encoder.model)} {shown.hexdigest()} {chosen}"
    return Eyes(feature=chosen, read=read, identity=identity, name=encoder.name)


def eyes_of_model(model: nn.Module, processor: Any, feature: str | None = None, name: str = "") -> Eyes:
    """The states of a vision-language model that is asked the question; of ``vision`` what its eyes made of it."""
    chosen = _one_of(feature, OF_LANGUAGE_MODEL, "a vision-language model")
    identity = f"{function_fingerprint(model)} {prompt_fingerprint(processor)} {chosen}"
    device = next(model.parameters()).device

    def batch_of(samples: Sequence[Sample]) -> dict[str, Any]:
        batch = prompt_batch(processor, list(samples))
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}

    def states(samples: Sequence[Sample]) -> Tensor:
        batch = batch_of(samples)
        with torch.no_grad(), evaluating(model):
            hidden = model.base_model(**batch, use_cache=False).last_hidden_state.float()  # type: ignore[operator]
        if chosen == "last":
            return hidden[:, -1].cpu()  # prompts are padded on the left
        is_text = batch["attention_mask"][..., None].float()
        return ((hidden * is_text).sum(1) / is_text.sum(1)).cpu()

    def vision(samples: Sequence[Sample]) -> Tensor:
        numbered = [str(number) for number in range(len(samples))]
        seen = observe(model, [{**batch_of(samples), "sample_ids": numbered}])
        rows = np.array([int(name) for name in seen.sample_ids])
        return torch.stack([seen.features[torch.from_numpy(rows == row)].mean(0) for row in range(len(samples))])

    return Eyes(feature=chosen, read=vision if chosen == "vision" else states, identity=identity, name=name)


def features_of(
    eyes: Eyes, samples: Sequence[Sample], folder: Path, *, name: str, batch: int = 32, progress: bool = True
) -> np.ndarray:
    """``[questions, dim]`` fp32; those that ``folder`` keeps are not computed again, and it may be deleted any time.

    Raises:
        DataError: a picture that cannot be used, or a feature that is not finite, by its row.
    """
    cache, hashed = FeatureCache(folder, LIMIT_BYTES), SampleHashes()
    keys = [sha256(f"{eyes.identity} {hashed(sample)}".encode()).hexdigest() for sample in samples]
    found: dict[str, np.ndarray] = {}
    for key in keys:
        if key not in found and (kept := cache.get(key)) is not None:
            found[key] = kept.numpy()
    missing = list({key: sample for key, sample in zip(keys, samples, strict=True) if key not in found}.items())
    with progress_of(f"features {name}", len(missing), progress) as advance:
        for start in range(0, len(missing), batch):
            some = missing[start : start + batch]
            vectors = eyes.read([sample for _, sample in some]).float()
            for (key, sample), vector in zip(some, vectors, strict=True):
                if not bool(vector.isfinite().all()):
                    fix = "check the model's weights, or the picture"
                    raise DataError("features are not finite", where=sample.where or sample.id, fix=fix)
                cache.put(key, vector)
                found[key] = vector.numpy()
            advance(len(some))
    return np.stack([found[key] for key in keys])
