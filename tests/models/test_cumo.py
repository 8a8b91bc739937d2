"""CuMo's tower against slow loops and the plain CLIP it is made from, and its published names."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel

import yarbus
from tests import tiny
from tests.tiny.further_encoders import clip_pictures, clip_vision, cumo_vision
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.methods import CoVFT
from yarbus.models.cumo import CumoVisionModel, TokenMixture, upcycle
from yarbus.models.cumo_checkpoint import convert_cumo, read_cumo
from yarbus.models.encoders import EncoderSpec, VisionEncoder

TOWER = "model.vision_tower.vision_model."


def published(model):
    """The tower's tensors under the names that CuMo's checkpoints use, beside one of another part."""
    names = {
        name: name.replace(".mlp.gate.", ".gate.").replace(".mlp.experts.", ".experts.") for name in model.state_dict()
    }
    tensors = {f"{TOWER}{names[name]}": tensor for name, tensor in model.state_dict().items()}
    return {**tensors, "model.embed_tokens.weight": torch.zeros(2, 2)}


def small_clip(folder):
    clip_vision(dim=16, image_px=42).save_pretrained(folder)
    clip_pictures(42).save_pretrained(folder)
    return str(folder)


def test_a_mixture_is_a_slow_loop_over_tokens_and_experts():
    config = cumo_vision().config
    torch.manual_seed(0)
    mixture, tokens = TokenMixture(config), torch.randn(2, 5, 16)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, std=0.5)
    expected = torch.zeros_like(tokens)
    for image in range(2):
        for place in range(5):
            shares = (mixture.gate.weight @ tokens[image, place]).softmax(dim=0)
            best = sorted(range(4), key=lambda expert: -shares[expert])[:2]
            for expert in best:
                weight = shares[expert] / sum(shares[one] for one in best)
                expected[image, place] += weight * mixture.experts[expert](tokens[image, place])
    torch.testing.assert_close(mixture(tokens), expected, atol=1e-6, rtol=1e-4)
    weights, chosen = mixture.route(tokens[0])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(5))
    assert chosen.shape == (5, 2) and (chosen[:, 0] != chosen[:, 1]).all()


def test_experts_that_are_copies_give_what_the_clip_gives():
    clip, pixels = clip_vision(), torch.randn(2, 3, 28, 28)
    model = upcycle(clip, num_experts=3, top_k=2)
    assert isinstance(model, CumoVisionModel) and len(model.encoder.layers[0].mlp.experts) == 3 and not model.training
    expected = clip(pixels, output_hidden_states=True)
    found = model(pixels, output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.hidden_states[-2], expected.hidden_states[-2], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        model.encoder.layers[0].mlp.experts[1].fc2.bias.add_(1.0)
    assert not torch.allclose(model(pixels).last_hidden_state, expected.last_hidden_state, atol=1e-3)
    assert torch.equal(clip(pixels).last_hidden_state, expected.last_hidden_state)


def test_its_features_are_the_input_of_the_last_block_without_the_class_token():
    model, pixels = cumo_vision(), torch.randn(1, 3, 42, 42)
    states = model(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(VisionEncoder(model, EncoderSpec("x"))(pixels), states[-2][:, 1:]) and len(states) == 3


def test_it_is_read_by_the_library_and_strictly(tmp_path):
    model = cumo_vision()
    model.save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, CumoVisionModel) and not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (again.config.num_experts, again.config.top_k) == (4, 2)


@pytest.mark.parametrize("prefix", [TOWER, "vision_model.", ""])
def test_published_names_become_ours_with_every_number(prefix, tmp_path):
    model, clip = cumo_vision(), small_clip(tmp_path / "clip")
    names = {name.replace(TOWER, prefix): tensor.half() for name, tensor in published(model).items()}
    if not prefix:  # a file of the tower alone
        del names["model.embed_tokens.weight"]
    save_file(names, tmp_path / "cumo.safetensors")
    found = read_cumo(tmp_path / "cumo.safetensors", clip)
    assert found.dtype == torch.float16 and found.config.num_experts == 4
    assert all(torch.equal(tensor.half(), found.state_dict()[name]) for name, tensor in model.state_dict().items())
    folder = convert_cumo(tmp_path / "cumo.safetensors", clip, tmp_path / "ours")
    model, processor = tiny.llava()
    yarbus.attach(model, processor, head={"method": "carpe", "encoders": {"cumo": str(folder)}})
    assert "context_pixel_values_cumo" in processor.model_input_names


def test_what_is_no_cumo_or_not_all_of_it_is_refused(tmp_path):
    model, clip = cumo_vision(), small_clip(tmp_path / "clip")
    (tmp_path / "cumo.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="nothing that is read here is a pickle"):
        read_cumo(tmp_path / "cumo.bin", clip)
    save_file({f"model.{name}": t for name, t in clip_vision().state_dict().items()}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="not a CuMo checkpoint"):
        read_cumo(tmp_path / "plain.safetensors", clip)
    names = published(model)
    for change, name in (
        (lambda n: n.pop(f"{TOWER}encoder.layers.1.experts.2.fc1.bias"), "experts.2.fc1.bias"),
        (lambda n: n.update({f"{TOWER}encoder.layers.1.extra": torch.zeros(1)}), "extra"),
        (lambda n: n.update({f"{TOWER}pre_layrnorm.bias": torch.zeros(3)}), "pre_layrnorm.bias"),
    ):
        changed = dict(names)
        change(changed)
        save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(CheckpointError, match=name):
            read_cumo(tmp_path / "changed.safetensors", clip)
    save_file(names, tmp_path / "cumo.safetensors")
    with pytest.raises(ConfigError, match="top_k 5 of 4 experts"):
        read_cumo(tmp_path / "cumo.safetensors", clip, top_k=5)
    with pytest.raises(ConfigError, match="cannot load the CLIP that the tower was made from"):
        read_cumo(tmp_path / "cumo.safetensors", str(tmp_path / "nowhere"))


def test_as_a_bases_own_tower_it_says_that_it_has_no_single_network():
    model, processor = tiny.llava()
    model.model.vision_tower, model.config.vision_config = upcycle(model.model.vision_tower), cumo_vision().config
    with pytest.raises(ConfigError, match="no linear layer at 'fc1'"):
        yarbus.attach(model, processor, vision=CoVFT(), text_encoder="language_embeddings")
