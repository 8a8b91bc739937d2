"""One batch of questions -> a reply to each: the prompt, the tokens chosen after it, and what is kept of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from yarbus.core.errors import DataError
from yarbus.data.collate import prompt_batch
from yarbus.data.sample import Sample

SAMPLE_ERRORS = (DataError, ValueError, torch.OutOfMemoryError)
"""What one sample can cause: an unreadable picture, one that the processor refuses, one too large. Anything else
is a mistake of ours or concerns all samples, and must not become a wrong answer."""

Answer = Callable[[list[Sample]], list[str]]
"""One batch of questions -> a reply to each."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a reply is chosen, token by token: the likeliest one each time, unless told otherwise."""

    max_new_tokens: int
    num_beams: int = 1
    temperature: float = 0.0
    """0 takes the likeliest token; with more, tokens are drawn."""
    top_p: float = 1.0
    """Tokens are drawn from the likeliest that have this much probability together."""
    top_k: int | None = None
    """Tokens are drawn from this many; None is the library's number."""
    repetition_penalty: float = 1.0
    until: tuple[str, ...] = ()
    """The reply ends before the first of these."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``generate``; what only drawing needs is left out without it, or the library warns."""
        drawn: dict[str, Any] = {}
        if self.temperature > 0:
            drawn = {"temperature": self.temperature, "top_p": self.top_p}
            drawn |= {} if self.top_k is None else {"top_k": self.top_k}
        return {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "do_sample": self.temperature > 0,
            "repetition_penalty": self.repetition_penalty,
            **drawn,
        }

    def cut(self, text: str) -> str:
        """The text before the first ``until``."""
        for end in self.until:
            text = text.partition(end)[0]
        return text


class _Until(StoppingCriteria):
    """Ends a row once its reply holds one of the texts.

    The library's own ``stop_strings`` looks at the prompt too, which may end with one ("ASSISTANT:").
    """

    def __init__(self, tokenizer: Any, ends: tuple[str, ...], prompt_tokens: int) -> None:
        self.tokenizer, self.ends, self.prompt_tokens = tokenizer, ends, prompt_tokens
        # As many tokens as the longest text has bytes hold it, whatever the tokenizer; what came before was looked at.
        self.window = max(len(end.encode()) for end in ends) + 1

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        begin = max(self.prompt_tokens, input_ids.shape[1] - self.window)
        texts = self.tokenizer.batch_decode(input_ids[:, begin:])
        found = [any(end in text for end in self.ends) for text in texts]
        return torch.tensor(found, device=input_ids.device)


@contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """The checkpoint's own generation settings put aside, but for its special tokens.

    Qwen2.5-VL's penalise repetition, which is not greedy decoding; ``generate`` merges them into whatever it is told.
    """
    own = model.generation_config
    marks = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**marks)
    try:
        yield
    finally:
        model.generation_config = own


def reply(
    model: Any, processor: Any, samples: list[Sample], decoding: Decoding, asked_by: list[Sample] | None = None
) -> list[str]:
    """Replies to one batch of questions, without special tokens, stripped.

    ``asked_by``: samples whose questions reach the eyes in place of their own; the language model reads its own.
    """
    inputs = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in prompt_batch(processor, samples, asked_by).items()
    }
    options, prompt_tokens = decoding.options(), inputs["input_ids"].shape[1]
    if decoding.until:
        ends = _Until(processor.tokenizer, decoding.until, prompt_tokens)
        options["stopping_criteria"] = StoppingCriteriaList([ends])
    # no_grad, not inference_mode: cached text states must stay usable in a later training step.
    with torch.no_grad(), _plainly(model):
        tokens = model.generate(**inputs, **options)
    texts = processor.batch_decode(tokens[:, prompt_tokens:], skip_special_tokens=True)
    return [decoding.cut(text).strip() for text in texts]


def ask(answer: Answer, samples: list[Sample]) -> Iterator[tuple[Sample, str, str | None]]:
    """(sample, reply, error) of each sample; a batch that fails is asked again one by one."""
    try:
        texts = answer(samples)
    except SAMPLE_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(samples) == 1:
            yield samples[0], "", f"{type(error).__name__}: {error}"[:500]
            return
    else:
        yield from ((sample, text, None) for sample, text in zip(samples, texts, strict=True))
        return
    for sample in samples:
        yield from ask(answer, [sample])
