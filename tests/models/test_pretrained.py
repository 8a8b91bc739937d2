"""What is read from a folder: which reason is told, and which configs are one function."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, CLIPConfig, CLIPVisionConfig

from tests.tiny.further_encoders import clip_vision, cumo_vision, encoder_folder
from yarbus.core.errors import ConfigError
from yarbus.models import pretrained
from yarbus.models.pretrained import config_hash, identity_of, read_config, read_encoder, reason


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError(), "ImportError"),
        (ValueError("\n  \n"), "ValueError"),
        (OSError("\n no such file \nmore"), "no such file"),
        (KeyError("image_size"), "'image_size'"),
    ],
)
def test_the_reason_is_the_first_line_that_says_something(error, told):
    assert reason(error) == told


def test_a_hash_of_a_config_knows_what_is_computed_and_not_where_it_was_read(tmp_path):
    model = clip_vision()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.architectures and again.dtype == torch.bfloat16 and again._name_or_path == str(tmp_path)
    assert config_hash(again) == config_hash(clip_vision().config)
    assert config_hash(CLIPVisionConfig(hidden_act="gelu")) != config_hash(CLIPVisionConfig())
    deep = CLIPConfig(vision_config={"hidden_act": "gelu"})
    assert config_hash(deep) != config_hash(CLIPConfig())
    deep.vision_config.hidden_act, deep.text_config.dtype = "quick_gelu", "bfloat16"
    assert config_hash(deep) == config_hash(CLIPConfig())


def test_an_identity_knows_config_attention_and_every_bit():
    model, other = cumo_vision(), cumo_vision()
    assert identity_of(model) == identity_of(other)
    with torch.no_grad():
        other.encoder.layers[1].mlp.experts[0].fc2.weight[3, 7] *= 1 + 1e-6
    fewer = copy.deepcopy(model)
    fewer.config.top_k = 1
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    rounded = copy.deepcopy(model).to(torch.bfloat16).float()
    assert len({identity_of(one) for one in (model, other, fewer, eager, rounded)}) == 5


def test_an_error_without_a_message_is_told_by_its_class(monkeypatch):
    def fails(*_, **__):
        raise ImportError

    monkeypatch.setattr(pretrained, "load_image_processor", fails)
    folder = encoder_folder("clip")
    with pytest.raises(ConfigError, match="cannot load the eye: here - ImportError"):
        read_encoder(folder, read_config(folder, "the eye", "here"), torch.float32, "the eye", "here")


def test_a_tower_of_our_own_class_is_known_to_whoever_reads_one():
    code = "import sys; from yarbus.models.bare_encoder import load_bare_encoder; load_bare_encoder(sys.argv[1])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, encoder_folder("cumo")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
