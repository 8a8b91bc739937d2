"""Classification by an encoder that was never trained for it: which class's text is closest to the picture.

Works for every pair of transformers that gives one vector per picture and per text (CLIP, SigLIP, ...), on ``classes:``
and ``dataset:`` benchmarks: all classes, or with ``#closed=N`` the names that each row offers. The reply is the name of
the class, so replies and scores lie on disk as those of a language model do, and a run that was stopped goes on.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.own_names import OwnName, own_name
from yarbus.core.progress import progress_of
from yarbus.data.image import open_image
from yarbus.data.sample import Sample
from yarbus.evaluation.benchmark import Protocol
from yarbus.evaluation.classification import class_benchmark, read_choices
from yarbus.evaluation.folder import benchmark_folder
from yarbus.evaluation.identity import LENGTH, function_fingerprint
from yarbus.evaluation.prompts import PLACE
from yarbus.evaluation.replies import Row
from yarbus.evaluation.runner import score_replies
from yarbus.models.bare_encoder import BareEncoder

ONE, ENSEMBLE = "zero_shot", "zero_shot_ensemble"
PROTOCOLS = (ONE, ENSEMBLE)
TEXTS_AT_ONCE = 256


def class_benchmark_name(name: str) -> OwnName:
    """The parts of a ``classes:`` or ``dataset:`` name; another benchmark has no classes and is refused."""
    own = own_name(name)
    if own is None or own.kind not in ("classes", "dataset"):
        raise ConfigError(f"benchmark '{name}' has no classes", fix="use classes:PATH or dataset:PATH")
    return own


def check_text_side(encoder: BareEncoder) -> None:
    """Raises for an encoder that gives no vector of a class's name that can be compared with one of a picture."""
    why = ""
    if encoder.tokenizer is None:
        why = "it has no text side: no name of a class can be compared with a picture"
    else:
        picture, text = encoder.widths()
        if picture is None or text is None:
            why = f"it gives several vectors of a {'picture' if picture is None else 'text'}, or none, instead of one"
        elif picture != text:
            why = f"its vector of a picture has {picture} numbers, that of a text {text}"
    if why:
        raise ConfigError(
            f"{type(encoder.model).__name__} cannot classify without training",
            where=encoder.name,
            why=why,
            fix="use a pair such as CLIP or SigLIP, or fit a linear probe (--train)",
        )


def _tokens_of(encoder: BareEncoder, names: Sequence[str], prompts: Sequence[str]) -> list[dict[str, Tensor]]:
    """Tokens of every class in the words of each prompt. Two classes that read alike are refused."""
    tokens = [encoder.text_tokens([prompt.replace(PLACE, name) for name in names]) for prompt in prompts]
    rows = [tuple(int(token) for one in tokens for token in one["input_ids"][row]) for row in range(len(names))]
    first: dict[tuple[int, ...], str] = {}
    for name, row in zip(names, rows, strict=True):
        if row in first:
            raise DataError(
                f"the encoder cannot tell '{first[row]}' from '{name}'",
                where=encoder.name,
                why="its tokenizer reads both alike: words that it does not know, or a name that is too long",
                fix="give the classes other names (#names=FILE)",
            )
        first[row] = name
    return tokens


def class_vectors(encoder: BareEncoder, tokens: Sequence[dict[str, Tensor]], progress: bool = False) -> Tensor:
    """One unit vector per class ``[classes, dim]``: the mean direction of its texts, one set of them per prompt."""
    total = 0.0
    num_classes = len(tokens[0]["input_ids"])
    with progress_of("read classes", num_classes * len(tokens), progress) as advance:
        for one in tokens:
            parts = []
            for start in range(0, num_classes, TEXTS_AT_ONCE):
                some = {name: value[start : start + TEXTS_AT_ONCE] for name, value in one.items()}
                parts.append(F.normalize(encoder.text_features(some), dim=-1))
                advance(len(parts[-1]))
            total = total + torch.cat(parts)
    assert isinstance(total, Tensor)
    return F.normalize(total, dim=-1)


def _fingerprint(encoder: BareEncoder, tokens: Sequence[dict[str, Tensor]], names: Sequence[str]) -> str:
    """Hash of what encoder and picture processing are shown: the classes' texts, and one fixed picture."""
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    digest = sha256("\n".join(names).encode())
    for batch in (*tokens, encoder.pixels([picture])):
        for name in sorted(batch):
            digest.update(f"{name} {tuple(batch[name].shape)}".encode())
            digest.update(batch[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:LENGTH]


def zero_shot(
    encoder: BareEncoder,
    names: Sequence[str],
    folder: Path,
    *,
    protocol: str = ONE,
    prompts: Sequence[str] | None = None,
    checkpoint: str = "final",
    batch: int = 32,
    progress: bool = True,
) -> dict[str, Row]:
    """Scores of each benchmark by name, made from replies kept below ``folder/evaluation/<checkpoint>/``.

    Args:
        protocol: ``zero_shot`` (one prompt) or ``zero_shot_ensemble`` (many).
        prompts: texts with one ``{}`` in place of the protocol's own.

    Raises:
        ConfigError: the encoder has no text side, or a benchmark no classes.
        DataError: the tokenizer reads two classes alike.
        MismatchError: the folder holds replies of another encoder, of other prompts or other data.
    """
    check_text_side(encoder)
    if batch < 1:
        raise ConfigError(f"batch must be 1 or more, found {batch}", fix="choose a batch of 1 or more")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"no protocol '{protocol}' of an encoder", fix=f"use one of: {', '.join(PROTOCOLS)}")
    asked = {name: read_choices(class_benchmark_name(name)) for name in names}  # faults are told before the work
    model, scores = function_fingerprint(encoder.model), {}
    for name, choices in asked.items():
        benchmark = class_benchmark(class_benchmark_name(name), choices.samples, choices.names)
        chosen: Protocol = benchmark.protocol(protocol)
        classes = sorted({label for labels in choices.offered for label in labels})
        tokens = _tokens_of(encoder, classes, chosen.prompts if prompts is None else prompts)
        offered = dict(zip((sample.id for sample in choices.samples), choices.offered, strict=True))
        answer = _Nearest(encoder, classes, class_vectors(encoder, tokens, progress), offered)
        identity = {
            "benchmark": name,
            "protocol": protocol,
            "max_new_tokens": chosen.max_new_tokens,
            "model": model,
            "prompt": _fingerprint(encoder, tokens, classes),
        }
        place = benchmark_folder(folder, name, protocol, checkpoint)
        scores[name] = score_replies(answer, benchmark, chosen, identity, place, batch=batch, progress=progress)
    return scores


class _Nearest:
    """Answers with the class whose vector is closest, among the names that the row may be."""

    def __init__(
        self, encoder: BareEncoder, classes: Sequence[str], vectors: Tensor, offered: dict[str, tuple[str, ...]]
    ) -> None:
        self.encoder, self.classes, self.vectors, self.offered = encoder, list(classes), vectors, offered
        self.number = {name: index for index, name in enumerate(self.classes)}

    def __call__(self, samples: list[Sample]) -> list[str]:
        pictures = [open_image(sample.images[0]) for sample in samples]
        likeness = F.normalize(self.encoder.image_features(pictures), dim=-1) @ self.vectors.T
        if not bool(likeness.isfinite().all()):
            raise ValueError("the encoder gives features that are not finite")
        allowed = torch.zeros_like(likeness, dtype=torch.bool)
        for row, sample in enumerate(samples):
            allowed[row, [self.number[name] for name in self.offered[sample.id]]] = True
        return [self.classes[index] for index in likeness.masked_fill(~allowed, -torch.inf).argmax(-1).tolist()]
