"""The language model: a small Llama that learns the tasks from perfect vision, before any tower is attached.

In place of projected visual tokens it reads *symbolic slots*: each digit is the sum of the embeddings of its words
(digit, colour, size, lean, cell), laid over the patches that its square covers. What it scores with these slots is
the ceiling for every tower. Later in training half of the sizes and cells are left unsaid, so that it also learns to
see them from where a digit lies: all that a tower which does not know them can offer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from numpy.random import default_rng
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from yarbus.tinyworld.loop import Schedule
from yarbus.tinyworld.processor import language_tokenizer
from yarbus.tinyworld.scene import IMAGE_PX, Scene, draw_scene
from yarbus.tinyworld.tasks import LEARNED, Question, pose

PATCHES_PER_SIDE = 6
PATCH_PX = IMAGE_PX / PATCHES_PER_SIDE
NUM_SLOTS = PATCHES_PER_SIDE**2
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class DecoderSchedule(Schedule):
    """Fresh scenes at every step, each asked one question of every task."""

    seed: int = 1967
    steps: int = 2000
    batch: int = 32
    learning_rate: float = 2e-3
    first_unsaid_step: int = 1000
    unsaid_fraction: float = 0.5
    slot_noise: float = 0.1
    """Standard deviation added to the slots, in units of an embedding's."""


def decoder_config(tokenizer: PreTrainedTokenizerFast, dim: int = 96, num_blocks: int = 3) -> LlamaConfig:
    """A small Llama; the shipped one has three blocks of width 96."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=dim * 8 // 3,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )


@dataclass(frozen=True)
class Sheet:
    """A picture's tokens followed by several questions about it, none of which sees another."""

    tokens: Tensor
    """[tokens]"""
    targets: Tensor
    """[tokens], ``IGNORED`` outside answers."""
    question: Tensor
    """[tokens] number of the question a token belongs to, 0 for the picture, -1 for padding."""
    positions: Tensor
    """[tokens]: every question stands directly behind the picture."""


class SlotReader(nn.Module):
    """A language model that sees scenes as slots."""

    def __init__(self, seed: int, dim: int = 96, num_blocks: int = 3) -> None:
        super().__init__()
        self.tokenizer = language_tokenizer()
        torch.manual_seed(seed)
        self.language_model = LlamaForCausalLM(decoder_config(self.tokenizer, dim, num_blocks))
        nn.init.normal_(self.language_model.get_input_embeddings().weight, std=0.5)

    def forward(
        self,
        scenes: list[Scene],
        questions: list[list[Question]],
        noise: float = 0.0,
        unsaid: Callable[[], bool] = lambda: False,
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[batch, tokens, vocab]`` that predict the next token, and the targets, ignored outside answers."""
        sheets = [lay_out(self.tokenizer, asked) for asked in questions]
        tokens = _pad([sheet.tokens for sheet in sheets], self.tokenizer.pad_token_id)
        targets = _pad([sheet.targets for sheet in sheets], IGNORED)
        embeddings = self.language_model.get_input_embeddings()(tokens)
        slots = self.slots(scenes, unsaid)
        slots = slots + noise * embeddings.detach().std() * torch.randn_like(slots)
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        logits = self.language_model(
            inputs_embeds=embeddings.masked_scatter((tokens == image)[..., None], slots),
            attention_mask=_mask(_pad([sheet.question for sheet in sheets], -1)),
            position_ids=_pad([sheet.positions for sheet in sheets], 0),
            use_cache=False,
        ).logits
        return logits[:, :-1], targets[:, 1:]

    def slots(self, scenes: list[Scene], unsaid: Callable[[], bool] = lambda: False) -> Tensor:
        """``[batch, slots, dim]``; ``unsaid`` decides for each size and each cell whether it is left out."""
        vocabulary = self.tokenizer.get_vocab()
        amounts = torch.zeros(len(scenes), NUM_SLOTS, len(vocabulary))
        for row, scene in enumerate(scenes):
            for digit in scene.digits:
                words = [str(digit.digit), digit.colour, digit.lean]
                words += [word for word in (digit.size, digit.cell) if not unsaid()]
                amounts[row][:, [vocabulary[word] for word in words]] += coverage(digit.x, digit.y, digit.px)[:, None]
        return amounts @ self.language_model.get_input_embeddings().weight


def coverage(x: float, y: float, px: int) -> Tensor:
    """Fraction of each patch that the square around ``x``, ``y`` covers, ``[slots]`` row by row."""
    edges = torch.arange(PATCHES_PER_SIDE) * PATCH_PX

    def along(centre: float) -> Tensor:
        inside = (edges + PATCH_PX).clamp(max=centre + px / 2) - edges.clamp(min=centre - px / 2)
        return inside.clamp(min=0) / PATCH_PX

    return (along(y)[:, None] * along(x)[None, :]).flatten()


@lru_cache(maxsize=100_000)
def encode(tokenizer: PreTrainedTokenizerFast, instruction: str, answer: str) -> tuple[tuple[int, ...], int]:
    """Tokens of a conversation behind its picture, and how many of them, at the end, are the answer's."""
    prompt = f"\n{instruction} ASSISTANT:"
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {answer}</s>")["input_ids"]
    return tuple(whole), len(whole) - len(before)


def lay_out(tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> Sheet:
    """The picture once, then the questions."""
    picture = tokenizer("USER: " + "<image>" * NUM_SLOTS)["input_ids"]
    tokens, targets = list(picture), [IGNORED] * len(picture)
    number, positions = [0] * len(picture), list(range(len(picture)))
    for index, question in enumerate(questions):
        added, answer_tokens = encode(tokenizer, question.instruction, question.answer)
        tokens += added
        targets += [IGNORED] * (len(added) - answer_tokens) + list(added[-answer_tokens:])
        number += [index + 1] * len(added)
        positions += range(len(picture), len(picture) + len(added))
    return Sheet(*map(torch.tensor, (tokens, targets, number, positions)))


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _mask(question: Tensor) -> Tensor:
    """Added to attention, ``[batch, 1, tokens, tokens]``: 0 backwards in the own question or the picture, else -inf."""
    same = question[:, :, None] == question[:, None, :]
    seen = torch.tril(same | (question == 0)[:, None, :])
    return torch.where(seen, 0.0, -torch.inf)[:, None]


def decoder_loss(reader: SlotReader, schedule: DecoderSchedule, step: int) -> tuple[Tensor, dict[str, float]]:
    """Loss over answer tokens of one step's fresh scenes, and the fraction of answers that are right, by task."""
    rng = default_rng((schedule.seed, 1, step))
    torch.manual_seed(schedule.seed * 1_000_003 + step)
    numbers = range(step * schedule.batch, (step + 1) * schedule.batch)
    scenes = [draw_scene("train", (schedule.seed, 2, number)) for number in numbers]
    questions = [[pose(task, scene, rng, held_out=False) for task in LEARNED] for scene in scenes]
    fraction = schedule.unsaid_fraction if step >= schedule.first_unsaid_step else 0.0
    logits, targets = reader(scenes, questions, schedule.slot_noise, lambda: bool(rng.random() < fraction))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    return loss, {"answer_tokens_right": round(float(are_right(logits, targets)[targets != IGNORED].float().mean()), 3)}


def are_right(logits: Tensor, targets: Tensor) -> Tensor:
    """``[batch, tokens]``: whether the most likely token is the right one, or none is asked for."""
    return (logits.argmax(-1) == targets) | (targets == IGNORED)


@torch.no_grad()
def ceiling(reader: SlotReader, scenes: list[Scene], questions: list[Question]) -> float:
    """Fraction of answers that are right in every token, one question a scene.

    The answer's own beginning is given; exact match of greedy generation is the same thing, since a reply that leaves
    the right answer is wrong from there on.
    """
    logits, targets = reader(scenes, [[question] for question in questions])
    return float(are_right(logits, targets).all(-1).float().mean())
