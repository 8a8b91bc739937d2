"""A second pair of eyes with words: an unmodified SigLIP, vision and text side, of width 64.

It is trained with SigLIP's pairwise sigmoid loss: every caption of a step is scored against every picture, and the
target is whether the caption is true of the picture, which this world knows, instead of whether both were drawn
together. (In a world of ten digits, "a photo of a 7" is true of every fourth picture; to call those wrong would teach
the wrong thing.) Captions are mostly of one object: whole captions alone leave the digits at chance (world.md, 1).

Two things are added in training, without which colours were learned and digits, after 70,000 pictures, not. Beside the
pooled vector the patches are scored, by the same loss and texts: any patch may vouch for a caption, as in the base's
tower. And the text side must tell which digits and colours its caption names: as long as no eye can tell digits apart
the pairs reward it for one vector for all of them, and then no eye ever learns to.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter

import numpy as np
import torch
from numpy.random import Generator, default_rng
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from yarbus.tinyworld.loop import Schedule
from yarbus.tinyworld.scene import COLOURS, IMAGE_PX, SIZES, Scene, draw_scene, near_the_middle, render
from yarbus.tinyworld.tower import NUM_TAGS, initialise, normalise, tags_of

MAX_TOKENS = 24
"""Every caption is padded to this length, as SigLIP was trained and must be used."""
TEMPLATES = (
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "an image of a {}",
    "the {} in the picture",
    "this is a {}",
    "a {}",
    "{}",
)
HELD_OUT = ("a picture of the {}", "an image of the {}", "this is a photo of a {}", "the {} in the image")
"""Of words that training has taught, but never seen in it."""
KINDS = {"digit": 0.4, "pair": 0.3, "whole": 0.2, "colour": 0.1}
"""What a caption says: one object's digit, digit and colour, or colour; or everything, from left to right."""
NUM_NAMED = 10 + len(COLOURS)
"""Digits and colours, the first tags of ``tower.tags_of``."""
UNKNOWN = "<unk>"
FOREIGN = 0.1
"""How often a word of a template is one that nobody knows, and how often one comes before it: prompts of other people
have words that this world lacks, and must not lose their meaning by them."""


@dataclass(frozen=True, kw_only=True)
class SiglipSchedule(Schedule):
    """Single large digits first, the farther from the middle and the more tilted the later; then scenes."""

    seed: int = 1967
    steps: int = 4000
    batch: int = 64
    save_every: int = 100
    learning_rate: float = 1.5e-3
    single_fraction: float = 0.5
    """Of all steps, those with single digits, which have spread over the whole picture at their end."""


def vocabulary() -> list[str]:
    """Every word of a caption, in alphabetical order."""
    words = {*map(str, range(10)), *COLOURS, "digit", "and"}
    for template in TEMPLATES + HELD_OUT:
        words |= {word for text, *_ in Formatter().parse(template) for word in text.split()}
    return sorted(words)


def caption_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, then ``</s>``, then padding: the last position is what SigLIP's text side reads."""
    specials = ["<pad>", UNKNOWN, "</s>"]
    tokens = {word: number for number, word in enumerate([*specials, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token=UNKNOWN,
        eos_token="</s>",
        padding_side="right",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids"],
        clean_up_tokenization_spaces=False,
    )


def siglip_config(vocab_size: int, dim: int = 64, num_blocks: int = 6) -> SiglipConfig:
    """Six blocks for pictures of 36 patches, two for captions."""
    return SiglipConfig(
        vision_config={
            "hidden_size": dim,
            "intermediate_size": 4 * dim,
            "num_hidden_layers": num_blocks,
            "num_attention_heads": 4,
            "image_size": IMAGE_PX,
            "patch_size": 8,
            "hidden_act": "gelu",
        },
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": dim,
            "intermediate_size": 4 * dim,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_TOKENS,
            "hidden_act": "gelu",
            "pad_token_id": 0,
            "eos_token_id": 2,
            "bos_token_id": None,
        },
    )


class CaptionReader(nn.Module):
    """The pair with its tokenizer, started carefully (the library's own start stays at chance, world.md 1)."""

    def __init__(self, seed: int, dim: int = 64, num_blocks: int = 6) -> None:
        super().__init__()
        self.tokenizer = caption_tokenizer()
        torch.manual_seed(seed)
        self.model = SiglipModel(siglip_config(len(self.tokenizer), dim, num_blocks))
        initialise(self.model.vision_model)
        initialise(self.model.text_model)
        self.patches = nn.Linear(dim, dim)
        self.said = nn.Linear(dim, NUM_NAMED)
        """Both are used in training only."""
        with torch.no_grad():
            # Words louder than places and padding silent, or the last position hears next to nothing of them.
            words = self.model.text_model.embeddings.token_embedding.weight
            nn.init.normal_(words)
            words[self.tokenizer.pad_token_id] = 0
            nn.init.normal_(self.model.text_model.embeddings.position_embedding.weight, std=0.1)
            self.model.logit_scale.fill_(np.log(10))
            self.model.logit_bias.fill_(-2)

    def forward(self, pixel_values: Tensor, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits that a caption is true of a picture ``[images, captions]``, SigLIP's own and those of the patches; and
        that it names a digit or colour, ``[captions, 18]``."""
        out = self.model(input_ids=encode(self.tokenizer, tuple(captions)), pixel_values=pixel_values)
        patches = F.normalize(self.patches(out.vision_model_output.last_hidden_state), dim=-1)
        each = patches @ out.text_embeds.T * self.model.logit_scale.exp()
        by_patches = each.logsumexp(1) - math.log(each.shape[1]) + self.model.logit_bias
        return out.logits_per_image, by_patches, self.said(out.text_model_output.pooler_output)


@lru_cache(maxsize=100_000)
def _tokens(tokenizer: PreTrainedTokenizerFast, caption: str) -> tuple[int, ...]:
    return tuple(tokenizer(caption, padding="max_length", truncation=True)["input_ids"])


def encode(tokenizer: PreTrainedTokenizerFast, captions: tuple[str, ...]) -> Tensor:
    """``[captions, 24]``"""
    return torch.tensor([_tokens(tokenizer, caption) for caption in captions])


def draw_caption(scene: Scene, rng: Generator, templates: tuple[str, ...] = TEMPLATES) -> tuple[str, list[int]]:
    """A caption of the scene and the tags (``tower.tags_of``) it claims: true of any scene that has them all."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    digits = list(scene.digits) if kind == "whole" else [scene.digits[rng.integers(len(scene.digits))]]
    names = {"digit": "{0.digit}", "colour": "{0.colour} digit"}
    said = " and ".join(names.get(kind, "{0.colour} {0.digit}").format(digit) for digit in digits)
    claims = []
    for digit in digits:
        colour = tuple(COLOURS).index(digit.colour)
        pair = 10 + len(COLOURS) + digit.digit * len(COLOURS) + colour
        claims.append({"digit": digit.digit, "colour": 10 + colour}.get(kind, pair))
    words = []
    for word in templates[rng.integers(len(templates))].split():
        before, instead = rng.random(2) < FOREIGN
        words += [UNKNOWN] * int(before) + [UNKNOWN if instead and word != "{}" else word]
    return " ".join(words).format(said), claims


def truth(scenes: list[Scene], claims: list[list[int]]) -> Tensor:
    """``[scenes, captions]`` of 0 and 1: whether the scene has all that the caption claims."""
    claimed = torch.zeros(len(claims), NUM_TAGS)
    for row, tags in enumerate(claims):
        claimed[row, tags] = 1
    return (tags_of(scenes) @ claimed.T == claimed.sum(1)).float()


def named(claims: list[list[int]]) -> Tensor:
    """``[captions, 18]`` of 0 and 1: the digits and colours that a caption names."""
    found = torch.zeros(len(claims), NUM_NAMED)
    for row, tags in enumerate(claims):
        for tag in tags:
            digit, colour = divmod(tag - NUM_NAMED, len(COLOURS))
            found[row, [tag] if tag < NUM_NAMED else [digit, 10 + colour]] = 1
    return found


def pair_loss(reader: CaptionReader, schedule: SiglipSchedule, step: int) -> tuple[Tensor, dict[str, float]]:
    """Sigmoid loss over all pairs of one step's fresh scenes and captions, and the fraction of pairs judged right
    among the true and among the false ones."""
    single = step < schedule.single_fraction * schedule.steps
    spread = min(1.0, step / (schedule.single_fraction * schedule.steps))
    num_digits, sizes = ((1, 1), ("large",)) if single else ((1, 4), tuple(SIZES))
    rng = default_rng((schedule.seed, 7, step))
    numbers = range(step * schedule.batch, (step + 1) * schedule.batch)
    scenes = [draw_scene("train", (schedule.seed, 6, number), num_digits=num_digits, sizes=sizes) for number in numbers]
    drawn = [draw_caption(scene, rng) for scene in scenes]
    pictures = [render(near_the_middle(scene, spread) if single else scene) for scene in scenes]
    logits, by_patches, said = reader(normalise(np.stack(pictures)), [caption for caption, _ in drawn])
    target = truth(scenes, [claims for _, claims in drawn])
    loss = F.binary_cross_entropy_with_logits(logits, target)
    loss = loss + F.binary_cross_entropy_with_logits(by_patches, target)
    loss = loss + F.binary_cross_entropy_with_logits(said, named([claims for _, claims in drawn]))
    right = ((logits > 0) == (target > 0)).float()
    found = {"true_pairs_right": right[target > 0].mean(), "false_pairs_right": right[target == 0].mean()}
    return loss, {name: round(float(value), 3) for name, value in found.items()}
