"""What CoVFT's layer costs: forward and backward of what stands in a feed-forward network's place.

Compares, at the sizes of ViT-L/14-336, our layer with dense and merged routing and one plain feed-forward network with
the layer in the form of its description: keys and values over [token; question], expert after expert, their outputs
stacked and summed by weight. All start from the same tensors; dense and the loop compute the same function.

    .venv/bin/python benchmarks/covft_block.py --images 2 --threads 1 --output benchmarks/results/covft_block-cpu.json
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.activations import ACT2FN

import yarbus
from yarbus.analysis.timing import Kept, now
from yarbus.core.records import environment, make_folder, write_json
from yarbus.methods import CoVFT
from yarbus.methods.official import OFFICIAL, OURS, to_official
from yarbus.models.attachment import attachment_of
from yarbus.models.images import ImageMap
from yarbus.models.slot import Context
from yarbus.models.text_encoder import TextStates

TARGETS = {"dense": {"time": 1.0, "bytes": 0.7}, "merged": {"time": 0.4}}
"""At most this much of the loop."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the layer; the defaults are CoVFT's in LLaVA-1.5."""

    dim: int = 1024
    hidden: int = 4096
    tokens: int = 577
    experts: int = 4
    heads: int = 4
    context_dim: int = 768


class Residual(nn.Module):
    """LayerNorm(x + fc2(activation(fc1(x))))."""

    def __init__(self, dim: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.ln = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim), nn.LayerNorm(dim)
        self.activation = ACT2FN[activation]

    def forward(self, values: Tensor) -> Tensor:
        return self.ln(values + self.fc2(self.activation(self.fc1(values))))


class LoopForm(nn.Module):
    """The layer as it is described, one thing after another. Its tensors go by the official code's names."""

    def __init__(self, sizes: Sizes, activation: str = "quick_gelu") -> None:
        super().__init__()
        dim, context_dim, both = sizes.dim, sizes.context_dim, sizes.dim + sizes.context_dim
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, sizes.hidden), ACT2FN[activation], nn.Linear(sizes.hidden, dim))
            for _ in range(sizes.experts)
        )
        self.image_resblock, self.text_resblock = Residual(dim, activation), Residual(context_dim, activation)
        self.cross_attn = nn.MultiheadAttention(context_dim, sizes.heads, kdim=both, vdim=both, batch_first=True)
        self.gate = nn.Linear(context_dim, sizes.experts)

    def forward(self, tokens: Tensor, question: Tensor) -> Tensor:
        picture, words = self.image_resblock(tokens), self.text_resblock(question)
        keys = torch.cat([picture, words[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)
        context, _ = self.cross_attn(words[:, None], keys, keys)
        weights = self.gate(context[:, 0]).softmax(dim=-1)
        stacked = torch.stack([expert(tokens) for expert in self.experts], dim=2)  # [images, tokens, experts, dim]
        return (stacked * weights[:, None, :, None]).sum(dim=2)


def tower_of(sizes: Sizes, routing: str | None) -> LlavaForConditionalGeneration:
    """A model whose first vision block has the sizes, on the CPU; with our layer there if ``routing`` says which."""
    side = round((sizes.tokens - 1) ** 0.5)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=sizes.dim, intermediate_size=sizes.hidden, num_hidden_layers=2, num_attention_heads=sizes.heads,
            image_size=14 * side, patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32, hidden_size=sizes.context_dim, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1,
        ),
        image_token_index=3,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    if routing is not None:
        method = CoVFT.preset(
            "official", routing=routing, num_experts=sizes.experts, num_heads=sizes.heads,
            context_dim=sizes.context_dim, expert_jitter=1e-2,
        )  # fmt: skip
        yarbus.attach(model, None, vision=method, text_encoder="language_embeddings")
    return model


def layers_of(sizes: Sizes, images: int, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The layers by name, each called with (tokens, question)."""
    torch.manual_seed(0)
    models = {routing: tower_of(sizes, routing) for routing in ("dense", "merged")}
    models["merged"].load_state_dict(models["dense"].state_dict())
    loop = LoopForm(sizes)
    prefix = f"{OFFICIAL}encoder.layers.0.mlp."
    mixture = {n: t for n, t in models["dense"].state_dict().items() if n.startswith(f"{OURS}encoder.layers.0.mlp.")}
    loop.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in to_official(mixture).items()})
    layers: dict[str, nn.Module] = {"loop": loop}
    layers |= {routing: InItsSlot(model, images) for routing, model in models.items()}
    layers["plain"] = Plain(tower_of(sizes, None).model.vision_tower.encoder.layers[0].mlp)
    return {name: layer.to(device, dtype).train() for name, layer in layers.items()}


class InItsSlot(nn.Module):
    """Our layer, called as if the model's forward were running."""

    def __init__(self, model: LlavaForConditionalGeneration, images: int) -> None:
        super().__init__()
        self.layer = model.model.vision_tower.encoder.layers[0].mlp
        self.slot = attachment_of(model).slot
        self.images = images

    def forward(self, tokens: Tensor, question: Tensor) -> Tensor:
        asked = torch.ones(self.images, dtype=torch.bool, device=tokens.device)
        text = TextStates([(one[None], one) for one in question], asked)
        with self.slot.holding(Context(text, ImageMap(torch.arange(self.images, device=tokens.device)), None)):
            return self.layer(tokens)


class Plain(nn.Module):
    """One feed-forward network, which reads no question."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor, question: Tensor) -> Tensor:
        return self.layer(tokens)


def bytes_kept(layer: nn.Module, tokens: Tensor, question: Tensor) -> int:
    """Bytes that the forward keeps for its backward, parameters aside, each storage once."""
    with Kept(layer.parameters()) as kept:
        output = layer(tokens, question)
    total = kept.nbytes
    output.sum().backward()  # the graph, and with it every pointer, lives until here
    return total


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall time of one call."""
    start = now(device)
    step()
    return now(device) - start


def measure(
    sizes: Sizes, images: int, device: str, dtype: torch.dtype, repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Times and bytes of every layer, and both as shares of the loop's."""
    layers = layers_of(sizes, images, device, dtype)
    tokens = torch.randn(images, sizes.tokens, sizes.dim, device=device, dtype=dtype, requires_grad=True)
    question = torch.randn(images, sizes.context_dim, device=device, dtype=dtype)
    gradient = torch.randn_like(tokens)
    difference = (layers["dense"](tokens, question) - layers["loop"](tokens, question)).abs().max().item()

    def step(layer: nn.Module) -> None:
        layer.zero_grad(set_to_none=True)
        tokens.grad = None
        layer(tokens, question).backward(gradient)

    times: dict[str, list[float]] = {name: [] for name in layers}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, layer in layers.items():
            taken = seconds(lambda layer=layer: step(layer), torch.device(device))
            if repeat:
                times[name].append(taken)
        progress(f"{repeat} of {repeats}")
    kept = {name: bytes_kept(layer, tokens, question) for name, layer in layers.items()}
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "largest_difference_dense_loop": difference,
        "layers": {
            name: {
                "seconds": medians[name],
                "time": medians[name] / medians["loop"],
                "bytes_kept": kept[name],
                "bytes": kept[name] / kept["loop"],
                "all_seconds": times[name],
            }
            for name in layers
        },
    }


def table(layers: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per layer: what it took, and its share of the loop, with a target where it has one."""
    lines = [f"{'layer':<8}{'ms':>9}{'of loop':>9}{'target':>8}{'MB kept':>10}{'of loop':>9}{'target':>8}"]
    for name, layer in layers.items():
        goals = [f"{TARGETS.get(name, {}).get(kind, ''):>8}" for kind in ("time", "bytes")]
        lines.append(
            f"{name:<8}{1e3 * layer['seconds']:>9.1f}{layer['time']:>9.3f}{goals[0]}"
            f"{layer['bytes_kept'] / 1e6:>10.1f}{layer['bytes']:>9.3f}{goals[1]}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table, and writes the record where ``--output`` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=10, help="measured rounds over all layers, after one to warm up")
    parser.add_argument("--threads", type=int, help="of torch; None is torch's own choice")
    parser.add_argument("--output", type=Path, help="JSON file of the record")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    given = vars(parser.parse_args(arguments))
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    sizes = Sizes(**{name: given[name] for name in asdict(Sizes())})
    found = measure(
        sizes, given["images"], given["device"], getattr(torch, given["dtype"]), given["repeats"],
        lambda line: print(line, end="\r", file=sys.stderr, flush=True),
    )  # fmt: skip
    record = {"settings": {**given, "output": None}, "targets": TARGETS, **found, "environment": environment()}
    print(table(record["layers"]))
    if given["output"] is not None:
        make_folder(given["output"].parent)
        write_json(given["output"], record)
    return record


if __name__ == "__main__":
    main()
