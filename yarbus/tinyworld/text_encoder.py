"""The text encoder: a BERT of width 64 whose ``[CLS]`` tells questions and what they ask for apart.

It learns from the wording alone, before any picture: which task a question belongs to, and which digit and which
colour it mentions. Its pooler is trained too, so that either reading of the pooled vector means something.
"""

from dataclasses import dataclass

import torch
from numpy.random import default_rng
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from yarbus.tinyworld.loop import Schedule
from yarbus.tinyworld.processor import text_tokenizer
from yarbus.tinyworld.scene import COLOURS, draw_scene
from yarbus.tinyworld.tasks import LEARNED, pose

NOT_MENTIONED = 0


@dataclass(frozen=True, kw_only=True)
class TextSchedule(Schedule):
    """Questions of the train phrasings only."""

    seed: int = 1967
    steps: int = 500
    batch: int = 64
    learning_rate: float = 2e-3


class QuestionReader(nn.Module):
    """The encoder with one linear head for the task, the mentioned digit and the mentioned colour each."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.tokenizer = text_tokenizer()
        torch.manual_seed(seed)
        self.encoder = BertModel(
            BertConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=64,
                pad_token_id=self.tokenizer.pad_token_id,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.sizes = (len(LEARNED), 1 + 10, 1 + len(COLOURS))
        self.heads = nn.Linear(64, sum(self.sizes))

    def forward(self, instructions: list[str]) -> list[Tensor]:
        """Scores of task, digit and colour, from ``[CLS]`` and again from the pooler: ``[2 * batch, size]`` each."""
        encoded = self.tokenizer(instructions, padding=True, return_tensors="pt")
        out = self.encoder(**encoded)
        pooled = torch.cat([out.last_hidden_state[:, 0], out.pooler_output])
        return list(self.heads(pooled).split(self.sizes, dim=1))


def mentions(task: str, instruction: str) -> tuple[int, int, int]:
    """Numbers of the task, of the mentioned digit and of the mentioned colour."""
    words = instruction.split()
    digits = [1 + int(word) for word in words if word.isdigit()] or [NOT_MENTIONED]
    colours = [1 + number for number, colour in enumerate(COLOURS) if colour in words] or [NOT_MENTIONED]
    return [learned.name for learned in LEARNED].index(task), digits[0], colours[0]


def text_loss(reader: QuestionReader, schedule: TextSchedule, step: int) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step's questions, and the fraction of which task, digit and colour are all recognised."""
    rng = default_rng((schedule.seed, 3, step))
    scenes = [draw_scene("train", (schedule.seed, 4, step, number)) for number in range(schedule.batch)]
    questions = [pose(LEARNED[int(rng.integers(len(LEARNED)))], scene, rng, held_out=False) for scene in scenes]
    wanted = torch.tensor([mentions(question.task, question.instruction) for question in questions]).repeat(2, 1)
    scores = reader([question.instruction for question in questions])
    losses = [nn.functional.cross_entropy(score, column) for score, column in zip(scores, wanted.T, strict=True)]
    found = torch.stack([score.argmax(-1) == column for score, column in zip(scores, wanted.T, strict=True)])
    return torch.stack(losses).sum(), {"recognised": round(found.all(0).float().mean().item(), 3)}
