"""Samples -> the batch that a model eats: pictures opened, text rendered, answers labelled."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from yarbus.core.errors import DataError
from yarbus.data.image import open_image
from yarbus.data.render import Rendered, Renderer
from yarbus.data.sample import Sample
from yarbus.models.question import said_until
from yarbus.models.sketch import key_of

IGNORED = -100
CHECKED_ROWS = 3

Visit = tuple[Sample, int, int]
"""(sample, epoch, row): a sample on one of its visits."""


def context_text(sample: Sample, train_turns: str, seed: int, epoch: int, row: int) -> str | None:
    """What the eyes are told: one random question per visit, or all joined by a space; None without a question.

    Only ever the user's words. The choice depends on (seed, epoch, row) alone, so a resumed run makes it again.
    """
    questions = [turn.words for turn in sample.asked(seed, epoch, row).turns if turn.role == "user"]
    if not questions:
        return None
    if train_turns == "all_human":
        return "\n".join(filter(None, questions))  # lines, so that rules can tell a format sentence
    return questions[0] if len(questions) == 1 else Random(f"{seed} {epoch} {row}").choice(questions)


def context_texts(visits: Iterable[Visit], train_turns: str, seed: int) -> list[str]:
    """All that the eyes are told on these visits, each text once, in order."""
    told = (context_text(sample, train_turns, seed, epoch, row) for sample, epoch, row in visits)
    return list(dict.fromkeys(text for text in told if text is not None))


def _open_images(sample: Sample) -> list[Any]:
    try:
        return [open_image(path) for path in sample.images]
    except DataError as error:
        raise DataError(error.what, where=error.where, why=f"{error.why} ({sample.where})", fix=error.fix) from None


def _said(processor: Any, samples: Sequence[Sample], every_turn: bool) -> dict[str, Any]:
    """What a head is told, where there is one: up to each turn that is answered, or up to the last alone."""
    if not getattr(processor, "asks_head", False):
        return {}
    rows = []
    for sample in samples:
        said = said_until([turn.words for turn in sample.turns if turn.role == "user"])
        answered = sum(turn.role == "assistant" for turn in sample.turns)
        rows.append(said[: max(1, answered)] if every_turn else said[-1:])
    return {"said": rows}


def _process(
    processor: Any,
    texts: list[str],
    samples: Sequence[Sample],
    side: str,
    contexts: list[Any] | None,
    said: dict[str, Any],
    suffixes: list[str] | None = None,
) -> Any:
    """The processor's output, with ``offset_mapping`` and, where text was expanded, ``text_replacement_offsets``.

    ``suffixes``: answers that are no part of the text.
    """
    images = [_open_images(sample) for sample in samples]
    text: dict[str, Any] = {"padding": True, "padding_side": side, "return_offsets_mapping": True}
    bos = processor.tokenizer.bos_token
    if bos is not None and texts[0].startswith(bos):  # the template wrote it already
        text["add_special_tokens"] = False
    given = {"context": contexts, "suffix": suffixes}
    arguments: dict[str, Any] = {**said, **{name: one for name, one in given.items() if one is not None}}
    batch = processor(
        images=images if any(images) else None,
        text=list(texts),
        text_kwargs=text,
        return_text_replacement_offsets=True,
        return_tensors="pt",
        **arguments,
    )
    batch.pop("labels", None)  # PaliGemma's processor makes some for a prompt as well
    return batch


def _moved(span: tuple[int, int], replacements: list[dict[str, Any]]) -> tuple[int, int]:
    """A span of the rendered text after the image tokens before it were expanded."""
    gained = sum(len(r["replacement"]) - len(r["text"]) for r in replacements if r["span"][1] <= span[0])
    return span[0] + gained, span[1] + gained


def _answered_turns(offsets: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """[tokens] number of the answer that a token holds characters of, -1 for none.

    ``offsets`` [tokens, 2] begin and end in the text.
    """
    begin, end = offsets[:, 0], offsets[:, 1]
    turns = np.full(len(offsets), -1)
    for turn, (start, stop) in enumerate(spans):
        turns[(begin < stop) & (end > start) & (end > begin)] = turn
    return turns


def _suffix_turns(batch: Any, rendered: Sequence[Rendered]) -> Tensor:
    """[batch, tokens] 0 on an answer that the processor took as a suffix, with its end marker, and -1 elsewhere."""
    is_answered = torch.tensor([bool(row.answers) for row in rendered])
    return torch.where((batch["token_type_ids"] == 1) & is_answered[:, None], 0, -1)


class Collator:
    """Turns visits into one padded batch with labels.

    Returns what the processor does (``input_ids``, ``attention_mask``, ``pixel_values``, ``context_*``, ...;
    a batch without a picture has no ``pixel_values``), ``labels`` [batch, tokens] (-100 but on answers and
    their end markers), with a head ``context_turn_index``, and ``sample_ids``.
    The first rows are checked: their labelled tokens must spell
    the answers. ``row_keys`` adds ``context_row_key`` for methods that draw at random: another number for each
    visit of a row. Only a model with an open path takes it.
    """

    def __init__(
        self,
        processor: Any,
        *,
        train_turns: Literal["sampled_turn", "all_human"] = "sampled_turn",
        seed: int = 0,
        max_tokens: int | None = None,
        supervised: bool = True,
        row_keys: bool = False,
    ) -> None:
        self.processor, self.train_turns, self.seed = processor, train_turns, seed
        self.max_tokens, self.supervised, self.row_keys = max_tokens, supervised, row_keys
        self.renderer = Renderer(processor)
        self.unchecked = CHECKED_ROWS

    def __call__(self, visits: Sequence[Visit]) -> dict[str, Any]:
        visits = [(sample.asked(self.seed, epoch, row), epoch, row) for sample, epoch, row in visits]
        samples = [sample for sample, _, _ in visits]
        texts = [self.renderer.text(sample) for sample in samples]
        said = _said(self.processor, samples, every_turn=self.supervised)
        suffixes = [self.renderer.suffix(sample) for sample in samples] if self.renderer.takes_suffix else None
        batch = _process(self.processor, texts, samples, "right", self._contexts(visits), said, suffixes)
        offsets = batch.pop("offset_mapping").numpy()
        replacements = batch.pop("text_replacement_offsets", None) or [[]] * len(samples)
        self._check_lengths(batch, samples)  # before the answers are looked for, which takes long in a long row
        if self.supervised:
            rendered = [self.renderer.conversation(sample) for sample in samples]
            turns = self._turns(offsets, replacements, rendered) if suffixes is None else _suffix_turns(batch, rendered)
            batch["labels"] = batch["input_ids"].where(turns >= 0, IGNORED)
            if said:
                batch["context_turn_index"] = turns
            self._check_labels(batch["labels"], rendered, samples)
        if self.row_keys:
            keys = [key_of("visit", str(self.seed), str(epoch), str(row)) for _, epoch, row in visits]
            batch["context_row_key"] = torch.tensor(keys)
        return {**batch, "sample_ids": [sample.id for sample in samples]}

    def _contexts(self, visits: Sequence[Visit]) -> list[str | None] | None:
        """One text per row, or None where no context is wanted."""
        if getattr(self.processor, "context_tokenizer", None) is None:
            return None
        return [context_text(sample, self.train_turns, self.seed, epoch, row) for sample, epoch, row in visits]

    def _turns(self, offsets: np.ndarray, replacements: list[Any], rendered: list[Rendered]) -> Tensor:
        """[batch, tokens] number of the answer that each token belongs to, -1 for none."""
        turns = [
            _answered_turns(own, [_moved(span, moves) for span in row.spans])
            for own, moves, row in zip(offsets, replacements, rendered, strict=True)
        ]
        return torch.from_numpy(np.stack(turns))

    def _check_lengths(self, batch: Any, samples: list[Sample]) -> None:
        """Nothing is ever cut: a row that is too long is refused with its numbers."""
        lengths = batch["attention_mask"].sum(1)
        if self.max_tokens is None or int(lengths.max()) <= self.max_tokens:
            return
        row = int(lengths.argmax())
        images = int((batch["input_ids"][row] == self.processor.image_token_id).sum())
        raise DataError(
            "row too long",
            where=samples[row].where or samples[row].id,
            why=f"{int(lengths[row])} tokens ({images} image) > {self.max_tokens}",
            fix="raise max_tokens, lower the resolution or shorten the row",
        )

    def _check_labels(self, labels: Tensor, rendered: list[Rendered], samples: list[Sample]) -> None:
        is_labelled = (labels != IGNORED).any(1)
        if not bool(is_labelled.all()):
            row = int(is_labelled.int().argmin())
            raise DataError(
                "nothing to learn from", where=samples[row].where, why="the answers are empty", fix="remove the row"
            )
        for row in range(min(self.unchecked, len(samples))):
            self.unchecked -= 1
            self._check_spelling(labels[row], rendered[row], samples[row])

    def _check_spelling(self, labels: Tensor, rendered: Rendered, sample: Sample) -> None:
        """Decodes the labelled tokens; they must read as the answers alone do, white space apart."""
        tokenizer = self.processor.tokenizer
        alone = [token for answer in rendered.answers for token in tokenizer.encode(answer, add_special_tokens=False)]
        found, expected = (
            "".join(tokenizer.decode(tokens, clean_up_tokenization_spaces=False).split())
            for tokens in (labels[labels != IGNORED].tolist(), alone)
        )
        if found != expected:
            raise DataError(
                "labels do not spell the answers",
                where=sample.where or sample.id,
                why=f"labelled {found[:60]!r}, answered {expected[:60]!r}",
                fix="check the processor's chat template and tokenizer",
            )


def prompt_batch(processor: Any, samples: Sequence[Sample], asked_by: Sequence[Sample] | None = None) -> dict[str, Any]:
    """Left-padded prompts that end where the answer begins, for ``generate``; the context as ``chat_turns`` says.

    ``asked_by``: samples whose questions the eyes are told instead, one per sample (an analysis: swapped questions).
    The language model and a head's context prompt keep their own.
    """
    renderer = Renderer(processor)
    texts = [renderer.prompt(sample) for sample in samples]
    contexts = None
    if getattr(processor, "context_tokenizer", None) is not None:
        asking = samples if asked_by is None else asked_by
        questions = [[turn.words for turn in sample.turns if turn.role == "user"] for sample in asking]
        contexts = [processor.question.of_turns(asked) for asked in questions]
    said = _said(processor, samples, every_turn=False)
    batch = _process(processor, texts, samples, "left", contexts, said)
    for key in ("offset_mapping", "text_replacement_offsets"):
        batch.pop(key, None)
    return dict(batch)
