"""What CoVFT costs a whole model, beside its layer in the form of its description: a step, an answer, memory.

``yarbus overhead`` with one more variant, which belongs to no recipe: ``covft-loop`` has in each block what
``covft_block.py`` calls the loop, keys and values over [token; question] and expert after expert. It computes what
``covft-dense`` does. Weights are drawn at random from the recipe's config and rows are made up: nothing is downloaded.

    .venv/bin/python -m benchmarks.overhead covft-llava-1.5-7b stages.instruct.batch=16 --tokens 704 --answer-tokens 64
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from rich.console import Console
from torch import Tensor, nn

from benchmarks.covft_block import LoopForm, Sizes
from yarbus.core.recipe import load_recipe
from yarbus.core.records import make_folder, read_record, write_json
from yarbus.methods import METHODS
from yarbus.models.attachment import Attachment, Method, Start
from yarbus.models.slot import ContextSlot
from yarbus.models.vlm import VLM
from yarbus.report.overhead_table import overhead_table
from yarbus.studies.overhead import RECORD, overhead


class InBlock(nn.Module):
    """The loop in the place of a block's feed-forward network: copies of it are its experts."""

    def __init__(self, linears: list[nn.Linear], sizes: Sizes, slot: ContextSlot) -> None:
        super().__init__()
        like = linears[0].weight
        with like.device:
            self.form = LoopForm(sizes).to(like.dtype)
        self.slot = slot
        with torch.no_grad():
            for expert in self.form.experts:
                for own, linear in zip((expert[0], expert[2]), linears, strict=True):
                    own.weight.copy_(linear.weight)
                    own.bias.copy_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.form(tokens, self.slot.read().pooled_by_image().to(tokens.dtype))


@dataclass(frozen=True, kw_only=True)
class CoVFTLoop(Method):
    """CoVFT with dense routing, its layers in the form of their description; for towers with a plain network."""

    name: ClassVar[str] = "covft_loop"
    places: ClassVar[tuple[str, ...]] = ("vision",)
    start: ClassVar[Start] = "rounding"
    layouts: ClassVar[tuple[Any, ...]] = ("images tokens dim",)

    num_experts: Annotated[int, Ge(1)] = 4
    num_heads: Annotated[int, Ge(1)] = 4

    @property
    def reads_question(self) -> bool:
        return True

    def groups(self, place: str) -> tuple[str, ...]:
        return ("vision", "vision_new", "router")

    def attach(self, vlm: VLM, place: str, attachment: Attachment) -> None:
        """Blocks, norms and groups are those of ``covft``; the context is as wide as the text encoder."""
        for block in vlm.blocks():
            for norm in vlm.tower.norms:
                attachment.train(list(block.get_submodule(norm).parameters()), group="vision")
        for block in vlm.executed_blocks().values():
            up, down = vlm.feed_forward_linears(block)
            sizes = Sizes(
                dim=up.in_features, hidden=up.out_features, experts=self.num_experts, heads=self.num_heads,
                context_dim=vlm.base_model.context_encoder.dim,
            )  # fmt: skip
            layer = InBlock([up, down], sizes, attachment.slot)
            attachment.replace(vlm, block, vlm.tower.feed_forward, layer)
            experts = {id(parameter) for parameter in layer.form.experts.parameters()}
            attachment.train(list(layer.form.experts.parameters()), group="vision_new")
            attachment.train([p for p in layer.parameters() if id(p) not in experts], group="router")


def variants_of(place: str, context_dim: int) -> dict[str, dict[str, Any]]:
    """The variants by name; ``place``: dotted path of what the last stage trains of the tower."""
    covft = {"method": "covft", "activation": "quick_gelu", "context_dim": context_dim}
    return {
        "frozen": {place: {"method": "frozen"}},
        "full": {place: {"method": "full"}},
        "covft-loop": {place: {"method": CoVFTLoop.name}},
        "covft-dense": {place: {**covft, "routing": "dense"}},
        "covft-merged": {place: {**covft, "routing": "merged"}},
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints the tables, and writes the record where ``--output`` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, help="JSON file of the record")
    parser.add_argument("--context-dim", type=int, default=768, help="width of the text encoder")
    sizes = {"rounds": 3, "steps": 5, "answers": 5, "warmup": 2, "new_tokens": 16, "threads": 1}
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    for name in ("tokens", "answer_tokens", "side"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="as for yarbus overhead --random-weights")
    given = vars(parser.parse_args(arguments))
    output, context_dim = given.pop("output"), given.pop("context_dim")
    recipe = load_recipe(given.pop("recipe"), given.pop("overrides"))
    place = f"stages.{list(recipe.stages)[-1]}.train.vision"
    with TemporaryDirectory() as folder:
        where = overhead(
            recipe, variants_of(place, context_dim), random_weights=True, folder=folder,
            references=("frozen", "full", "covft-loop"), command=shlex.join(sys.argv), **given,
        )  # fmt: skip
        record = read_record(where / RECORD)
    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, 110)
    console.print(overhead_table(record))
    if output is not None:
        make_folder(output.parent)
        write_json(output, record)
    return record


if __name__ in ("__main__", "__mp_main__"):  # a variant's turn is a process of its own, which imports this anew
    METHODS["vision"].add(CoVFTLoop.name, CoVFTLoop)
if __name__ == "__main__":
    main()
