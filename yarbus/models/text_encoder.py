"""The frozen text encoder: a question becomes token states and one pooled vector.

Each distinct text is encoded alone, a batch of one, and cached: neither padding, nor the other rows
of the batch, nor a cold cache after a resume changes a bit. A cache in memory stands before one on disk
(``models.text_cache``), if there is one.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig

from yarbus.core.errors import ConfigError
from yarbus.core.plugins import resolve
from yarbus.models.pretrained import identity_of, reason
from yarbus.models.text_cache import Encoded, Text, TextCache
from yarbus.models.vlm import VLM

LANGUAGE_EMBEDDINGS = "language_embeddings"
"""Name of the encoder that is a frozen copy of the language model's embedding table."""
SPACES = "\u2581\u0120"
"""How tokenizers write a space: sentencepiece, byte-level."""
_ONE_THREAD = Lock()
"""Held while texts are looked up: forwards of several threads share a cache. None of its own, as models are copied."""


@dataclass(frozen=True)
class TextStates:
    """What the encoder says of each row of context."""

    encoded: list[Encoded]
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
        return pad_sequence(self._states, batch_first=True)

    @cached_property
    def mask(self) -> Tensor:
        """[rows, text_tokens] True at real tokens."""
        return pad_sequence(
            [states.new_ones(len(states), dtype=torch.bool) for states in self._states], batch_first=True
        )

    @property
    def _states(self) -> list[Tensor]:
        if any(len(states) == 0 for states, _ in self.encoded):
            raise RuntimeError("a method reads token states that the text cache left out: see reads_question_tokens")
        return [states for states, _ in self.encoded]


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
        self._cache: OrderedDict[Text, Encoded] = OrderedDict()
        self._cached_bytes = 0
        self._disk: TextCache | None = None
        self._identity: str | None = None
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

    @property
    def num_words(self) -> int:
        """Size of its vocabulary."""
        if isinstance(self.encoder, EmbeddingTable):
            return self.encoder.embedding.num_embeddings
        assert self.encoder is not None
        return self.encoder.config.vocab_size  # type: ignore[union-attr, return-value]

    def clear_cache(self) -> None:
        """Forgets every text: needed when the encoder's weights, device or precision change. What is on disk stays."""
        self._cache.clear()
        self._cached_bytes = 0
        self._identity = None

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """What its numbers hang on besides the text: the model, to the bit, and the kind of device."""
        if self._identity is None:
            assert self.encoder is not None
            self._identity = f"{identity_of(self.encoder)} {self._device.type}"
        return self._identity

    def look_in(self, disk: TextCache | None) -> None:
        """From now on a text is looked for there before it is encoded; None: nowhere."""
        self.clear_cache()  # the other kind of methods may have been attached: without token states, or with them
        self._disk = disk

    def is_kept(self, text: Text) -> bool:
        """Whether the disk holds a text, whole."""
        return self._disk is not None and self._disk.get(self.identity, text) is not None

    def keep(self, text: Text) -> None:
        """Encodes a text for the disk."""
        assert self._disk is not None
        self._disk.put(self.identity, text, self._encode(text))

    def _read_or_encode(self, text: Text) -> Encoded:
        if self._disk is not None:
            with torch.inference_mode(False):
                kept = self._disk.get(self.identity, text)
                if kept is not None:
                    return kept[0].to(self._device), kept[1].to(self._device)
        return self._encode(text)

    def _encode(self, text: Text) -> Encoded:
        if self.encoder is None:
            raise RuntimeError(f"the text encoder '{self.name}' was left out: this model was built for `plan` alone")
        device = self._device
        # What is cached must not remember how it was first asked for: in inference mode, or under autocast.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            ids = torch.tensor([text], device=device)
            output = self.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        if isinstance(output, Tensor):
            return output[0], output[0].mean(dim=0)
        states = output.last_hidden_state[0]
        return states, states[0]

    def encode(self, texts: list[Text], has_question: Tensor) -> TextStates:
        """Texts (token ids with the special tokens, without padding) -> their states; each distinct one runs once."""
        with _ONE_THREAD:
            encoded = {text: self._states_of(text) for text in dict.fromkeys(texts)}
        return TextStates([encoded[text] for text in texts], has_question)

    def _states_of(self, text: Text) -> Encoded:
        if text in self._cache:
            self._cache.move_to_end(text)
        else:
            self._remember(text, self._read_or_encode(text))
        return self._cache[text]

    def _remember(self, text: Text, states: Encoded) -> None:
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


def _local_config(name: str) -> Any:
    """The encoder's config if that is here, else None: a plan must not need the network."""
    try:
        return AutoConfig.from_pretrained(resolve(name), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def _width_of(name: str) -> int:
    """The encoder's width, BERT's where that is not known here."""
    config = _local_config(name)
    return 768 if config is None else config.hidden_size


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
        raise ConfigError(
            f"cannot load text encoder '{name}'",
            why=reason(error),
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


def random_text_encoder(name: str, vlm: VLM) -> TextEncoder:
    """An encoder whose weights are drawn at random on the model's device, to measure what it costs.

    Its architecture is that of ``name`` where its config is on this machine, else BERT's (base).
    """
    with next(vlm.language_model.parameters()).device:
        config = None if name == LANGUAGE_EMBEDDINGS else _local_config(name) or BertConfig()
        return text_encoder_from_config(name, 0 if config is None else config.hidden_size, config, vlm)


def read_tokenizer(path: str | Path) -> Any:
    """A tokenizer by name or folder; raises ``ValueError`` with the reason where there is none.

    In a folder without its files transformers makes one up, to which every word is unknown: that is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # for a damaged file tokenizers raises nothing narrower
        raise ValueError(reason(error)) from None
    special = set(tokenizer.all_special_ids)
    if all(number in special or not word.strip(SPACES) for word, number in tokenizer.get_vocab().items()):
        raise ValueError(f"its files are missing: transformers made up a {type(tokenizer).__name__} without words")
    return tokenizer


def load_context_tokenizer(encoder: TextEncoder, processor: Any) -> Any:
    """The tokenizer that belongs to a text encoder."""
    if encoder.name == LANGUAGE_EMBEDDINGS:
        return processor.tokenizer
    try:
        return read_tokenizer(resolve(encoder.source))
    except ValueError as error:
        raise ConfigError(
            f"cannot load the tokenizer of text encoder '{encoder.name}'",
            where=encoder.source,
            why=str(error),
            fix="give a folder that holds both",
        ) from None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that say nothing: a text of these alone is no question. An unknown word still is one."""
    return frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
