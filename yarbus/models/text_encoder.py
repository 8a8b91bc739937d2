"""The frozen text encoder: a question becomes token states and one pooled vector.

Each distinct text is encoded alone, a batch of one, and cached: neither padding, nor the other rows
of the batch, nor a cold cache after a resume changes a bit.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.vlm import VLM

LANGUAGE_EMBEDDINGS = "language_embeddings"
"""Name of the encoder that is a frozen copy of the language model's embedding table."""


@dataclass(frozen=True)
class TextStates:
    """What the encoder says of each row of context."""

    encoded: list[tuple[Tensor, Tensor]]
    """Per row: token states [text_tokens, text_dim] and pooled vector [text_dim]."""
    has_question: Tensor
    """[rows] False where the text is empty."""

    @cached_property
    def pooled(self) -> Tensor:
        """[rows, text_dim]"""
        return torch.stack([pooled for _, pooled in self.encoded])

    @cached_property
    def tokens(self) -> Tensor:
        """[rows, text_tokens, text_dim], zero behind a text's end."""
        return pad_sequence([states for states, _ in self.encoded], batch_first=True)

    @cached_property
    def mask(self) -> Tensor:
        """[rows, text_tokens] True at real tokens."""
        return pad_sequence(
            [states.new_ones(len(states), dtype=torch.bool) for states, _ in self.encoded], batch_first=True
        )


class EmbeddingTable(nn.Module):
    """A frozen embedding table in the shape of an encoder: token states are the embeddings themselves."""

    def __init__(self, num_embeddings: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.embedding(input_ids)


class TextEncoder(nn.Module):
    """A frozen encoder in eval mode, whatever its owner is switched to, with a bounded cache."""

    def __init__(
        self, encoder: nn.Module | None, name: str, dim: int, source: str | None = None, cache_bytes: int = 2**28
    ) -> None:
        """``name`` as the recipe says it; ``source`` where it was read if not there (an adapter's copy)."""
        super().__init__()
        self.encoder = encoder
        self.name = name
        self.source = source or name
        self.dim = dim
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()
        self._cached_bytes = 0
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "TextEncoder":
        """Stays in eval mode: its dropout would change the context at random."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "TextEncoder":
        self.clear_cache()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clear_cache()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def limit(self) -> int | None:
        """Most tokens of a text; None if there is no limit."""
        return getattr(getattr(self.encoder, "config", None), "max_position_embeddings", None)

    def clear_cache(self) -> None:
        """Forgets every text: needed when the encoder's weights, device or precision change."""
        self._cache.clear()
        self._cached_bytes = 0

    def _encode(self, text: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if self.encoder is None:
            raise RuntimeError(f"the text encoder '{self.name}' was left out: this model was built for `plan` alone")
        device = next(self.encoder.parameters()).device
        # What is cached must not remember how it was first asked for: in inference mode, or under autocast.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            ids = torch.tensor([text], device=device)
            output = self.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        if isinstance(output, Tensor):
            return output[0], output[0].mean(dim=0)
        states = output.last_hidden_state[0]
        return states, states[0]

    def encode(self, texts: list[tuple[int, ...]], has_question: Tensor) -> TextStates:
        """Texts (token ids with the special tokens, without padding) -> their states; each distinct one runs once."""
        encoded: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        for text in texts:
            if text in encoded:
                continue
            if text in self._cache:
                self._cache.move_to_end(text)
                encoded[text] = self._cache[text]
            else:
                encoded[text] = self._encode(text)
                self._remember(text, encoded[text])
        return TextStates([encoded[text] for text in texts], has_question)

    def _remember(self, text: tuple[int, ...], states: tuple[Tensor, Tensor]) -> None:
        self._cache[text] = states
        self._cached_bytes += states[0].nbytes + states[1].nbytes
        while self._cached_bytes > self.cache_bytes and len(self._cache) > 1:
            _, (tokens, pooled) = self._cache.popitem(last=False)
            self._cached_bytes -= tokens.nbytes + pooled.nbytes

    @property
    def folder(self) -> Path | None:
        """The local folder this encoder came from, if it did."""
        path = Path(resolve(self.source))
        return path if path.is_dir() else None


def _embedding_encoder(vlm: VLM) -> TextEncoder:
    table = vlm.model.get_input_embeddings().weight
    with table.device:
        encoder = EmbeddingTable(*table.shape).to(table.dtype)
    with torch.no_grad():
        encoder.embedding.weight.copy_(table)
    return TextEncoder(encoder, LANGUAGE_EMBEDDINGS, table.shape[1])


def _width_of(name: str) -> int:
    """The encoder's width from its config if that is here, else BERT's: a plan must not need the network."""
    try:
        return AutoConfig.from_pretrained(resolve(name), local_files_only=True, trust_remote_code=False).hidden_size
    except (OSError, ValueError):
        return 768


def _without_pooler(encoder: nn.Module) -> nn.Module:
    """BERT's pooling head is not read, and a checkpoint without one would leave it random."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder


def load_text_encoder(name: str, vlm: VLM, source: str | None = None) -> TextEncoder:
    """A BERT-like encoder by hub name, folder or ``plug-in:path``, or ``language_embeddings``.

    The pooled vector is the last layer's first token ([CLS]); for ``language_embeddings`` it is the mean of the
    text's embeddings. For a model on the meta device only the name is kept. ``source``: read it from there instead.
    """
    device = next(vlm.language_model.parameters()).device
    if name == LANGUAGE_EMBEDDINGS:
        return _embedding_encoder(vlm)
    if device.type == "meta":
        return TextEncoder(None, name, _width_of(name))
    try:
        encoder = _read_encoder(resolve(source or name))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot load text encoder '{name}'",
            why=reason,
            fix="give the name or folder of a BERT-like model with safetensors",
        ) from None
    return TextEncoder(encoder.to(device), name, encoder.config.hidden_size, source)


def _read_encoder(path: str | Path) -> nn.Module:
    """The encoder with all its tensors; a frozen encoder with random ones would be noise for ever."""
    options = {"output_loading_info": True, "use_safetensors": True}
    try:  # a checkpoint without a pooler would be reported as incomplete, and ours is not read
        encoder, report = AutoModel.from_pretrained(path, add_pooling_layer=False, trust_remote_code=False, **options)
    except TypeError:  # an architecture without the option
        encoder, report = AutoModel.from_pretrained(path, trust_remote_code=False, **options)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"it lacks {len(missing)} tensors, the first is {missing[0]}")
    return _without_pooler(encoder)


def text_encoder_from_config(name: str, dim: int, config: Any, vlm: VLM) -> TextEncoder:
    """An encoder without its weights, for a loader that brings them."""
    if name == LANGUAGE_EMBEDDINGS:
        return _embedding_encoder(vlm)
    return TextEncoder(_without_pooler(AutoModel.from_config(config, trust_remote_code=False)), name, dim)


def load_context_tokenizer(encoder: TextEncoder, processor: Any) -> Any:
    """The tokenizer that belongs to a text encoder."""
    if encoder.name == LANGUAGE_EMBEDDINGS:
        return processor.tokenizer
    try:
        return AutoTokenizer.from_pretrained(resolve(encoder.source), trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cannot load the tokenizer of text encoder '{encoder.name}'",
            why=reason,
            fix="give a folder that holds both",
        ) from None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that say nothing: a text of these alone is no question. An unknown word still is one."""
    return frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
