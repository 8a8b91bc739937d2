"""Bases and processors from folders, without torchvision and without the network."""

import json

import pytest
import torch
from transformers import BertConfig

from tests import tiny
from tests.models.batches import ask
from yarbus.core.errors import ConfigError
from yarbus.models.load import base_on_meta, config_of, load_base, load_processor
from yarbus.models.vlm import VLM


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_base_and_its_processor_come_from_a_folder(family, pictures, tmp_path):
    model, processor = tiny.FAMILIES[family]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_base(str(tmp_path))
    batch = ask(its_processor, pictures)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, model(**ask(processor, pictures)).logits)
    assert type(its_processor) is type(processor)


def test_a_base_lives_on_the_meta_device_for_plans(tmp_path):
    model, _ = tiny.qwen()
    model.save_pretrained(tmp_path)
    skeleton = base_on_meta(config_of(str(tmp_path)).to_dict())
    assert next(skeleton.parameters()).device.type == "meta"
    assert len(VLM.of(skeleton).blocks()) == 4


def test_a_missing_base_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot load base model.*nothing"):
        load_base(str(tmp_path / "nothing"))


def test_a_model_of_no_known_family_is_told_what_is_supported(tmp_path):
    BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="unknown model family 'BertConfig'.*LlavaConfig"):
        load_base(str(tmp_path))
    with pytest.raises(ConfigError, match="no model_type"):
        base_on_meta({})


def test_a_processor_of_an_unknown_class_is_refused_instead_of_its_tokenizer_taken_for_it(tmp_path):
    model, processor = tiny.llava()
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**settings, "processor_class": "TomorrowProcessor"}))
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "processor_class": "TomorrowProcessor"}))
    with pytest.raises(ConfigError, match="cannot load the processor.*its class is unknown here.*alone"):
        load_processor(tmp_path, model.config)


def test_a_base_without_a_processor_or_with_missing_tensors_is_refused(tmp_path):
    model, processor = tiny.llava()
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot load the processor"):
        load_processor(tmp_path, model.config)
    processor.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "fc1" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 8 tensors"):
        load_base(str(tmp_path))
