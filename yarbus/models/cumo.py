"""A CLIP vision tower whose every feed-forward network is a mixture of experts, routed token by token (CuMo).

Structure as CuMo (arXiv:2405.05949) publishes it: per block some experts and a linear gate without bias; a token goes
through the ``top_k`` experts of highest softmax, whose weights are divided by their sum. The last norm is left out: it
stands on the class token alone, and CuMo reads the input of the last block. One scale only: the pictures as they are.
The losses that balance the experts belong to training them; here the tower is frozen.

``CumoVisionModel`` is an ordinary class of the library: a folder that holds one is loaded with ``from_pretrained``.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPMLP


@no_type_check  # the library hands a config all that a file says, which a checking wrapper would refuse
class CumoVisionConfig(CLIPVisionConfig):
    """CLIP's config and the size of each mixture."""

    model_type = "cumo_vision_model"
    num_experts: int = 4
    top_k: int = 2


class TokenMixture(nn.Module):
    """A feed-forward network of experts, of which each token takes its ``top_k``."""

    def __init__(self, config: CumoVisionConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList([CLIPMLP(config) for _ in range(config.num_experts)])

    def route(self, tokens: Float[Tensor, "tokens dim"]) -> tuple[Float[Tensor, "tokens top_k"], torch.Tensor]:
        """Weights of the chosen experts, which sum to 1, and their numbers; computed in fp32."""
        with torch.autocast(tokens.device.type, enabled=False):
            shares = F.linear(tokens.float(), self.gate.weight.float()).softmax(dim=-1)
        weights, chosen = shares.topk(self.top_k, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), chosen

    def forward(self, hidden_states: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights, chosen = self.route(tokens)
        output = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            token, rank = (chosen == number).nonzero(as_tuple=True)
            share = weights[token, rank, None].to(tokens.dtype)
            output = output.index_add(0, token, (share * expert(tokens[token])).to(tokens.dtype))
        return output.view_as(hidden_states)


class CumoVisionModel(CLIPVisionModel):
    """CLIP's vision model with a ``TokenMixture`` in every block, and without the norm behind the blocks."""

    config: CumoVisionConfig
    config_class = CumoVisionConfig

    def __init__(self, config: CumoVisionConfig) -> None:
        super().__init__(config)
        for block in self.encoder.layers:
            block.mlp = TokenMixture(config)
        self.post_layernorm = nn.Identity()  # type: ignore[assignment]
        self.post_init()


AutoConfig.register(CumoVisionConfig.model_type, CumoVisionConfig, exist_ok=True)
AutoModel.register(CumoVisionConfig, CumoVisionModel, exist_ok=True)


@torch.no_grad()
def upcycle(clip: CLIPVisionModel, num_experts: int = 4, top_k: int = 2) -> CumoVisionModel:
    """A tower whose experts are copies of a CLIP's networks: it gives what the CLIP gives, until they are trained.

    The gates start at random.
    """
    settings: dict[str, Any] = {**clip.config.to_dict(), "num_experts": num_experts, "top_k": top_k}
    settings.pop("model_type")
    like = next(clip.parameters())
    model = CumoVisionModel(CumoVisionConfig(**settings)).to(device=like.device, dtype=like.dtype)
    gates = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".gate.weight")}
    copies: dict[str, Tensor] = {}
    for name, tensor in clip.state_dict().items():
        head, found, tail = name.partition(".mlp.")
        if found:
            copies |= {f"{head}.mlp.experts.{number}.{tail}": tensor for number in range(num_experts)}
        elif not name.startswith("post_layernorm."):
            copies[name] = tensor
    model.load_state_dict({**copies, **gates})
    return model.train(clip.training)
