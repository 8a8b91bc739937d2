import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, Dinov2Model, SiglipModel, SiglipVisionModel

from yarbus.core.plugins import resolve
from yarbus.models.image_processors import load_image_processor
from yarbus.tinyworld import PLUGIN, towers
from yarbus.tinyworld.class_folders import export
from yarbus.tinyworld.classification import large_digit
from yarbus.tinyworld.dino import DinoSchedule
from yarbus.tinyworld.scene import render
from yarbus.tinyworld.siglip import SiglipSchedule
from yarbus.tinyworld.tower import normalise
from yarbus.tinyworld.tower_card import card

SHIPPED = {"siglip": SiglipModel, "dino": Dinov2Model}
SHORT = {"steps": 2, "batch": 4, "log_every": 1, "save_every": 1, "warmup_steps": 1}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(towers.TOWERS, "siglip", lambda: towers.siglip(SiglipSchedule(**SHORT)))
    monkeypatch.setitem(towers.TOWERS, "dino", lambda: towers.dino(DinoSchedule(**SHORT)))


def test_the_command_makes_towers_that_load_and_says_how(tmp_path, short):
    assert towers.pretrain(["siglip", "dino"], tmp_path / "work", tmp_path / "files")
    for name, kind in SHIPPED.items():
        model = AutoModel.from_pretrained(tmp_path / "files" / name)
        assert type(model) is kind and all(tensor.isfinite().all() for tensor in model.state_dict().values())
    record = json.loads((tmp_path / "files" / towers.RECORD).read_text())
    assert {name: log["step"] for name, log in record["parts"].items()} == {"siglip": 2, "dino": 2}


@pytest.mark.parametrize("name", list(SHIPPED))
def test_stopped_for_time_and_resumed_it_makes_the_same_tower(tmp_path, short, name):
    assert towers.pretrain([name], tmp_path / "whole", tmp_path / "first")
    one = towers.TOWERS[name]()
    torch.manual_seed(99)
    from yarbus.tinyworld.loop import train

    seen = []

    def once(step):
        if seen:
            raise KeyboardInterrupt
        seen.append(step)
        return one.loss(step)

    with pytest.raises(KeyboardInterrupt):
        train(one.module, once, one.schedule, tmp_path / "work" / name)
    assert towers.pretrain([name], tmp_path / "work", tmp_path / "second", resume=True)
    first, second = (AutoModel.from_pretrained(tmp_path / place / name).state_dict() for place in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_no_time_left_makes_no_folder(tmp_path, short):
    assert not towers.pretrain(["dino"], tmp_path / "work", tmp_path / "files", minutes=0.0)
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("name", list(SHIPPED))
def test_a_shipped_tower_is_an_ordinary_model_of_the_library_and_small(name):
    folder = resolve(f"tinyworld:{name}")
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is SHIPPED[name] and not any(report.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
    assert (folder / "README.md").is_file() and (folder / "preprocessor_config.json").is_file()


@pytest.mark.parametrize("name", list(SHIPPED))
def test_its_image_processor_makes_what_it_was_trained_on(name):
    pictures = [render(large_digit("train", number)) for number in range(3)]
    processor = load_image_processor(resolve(f"tinyworld:{name}"))
    made = processor(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(made, normalise(np.stack(pictures)), atol=1e-5, rtol=1e-5)


def test_the_vision_half_of_the_pair_loads_by_itself():
    _, report = SiglipVisionModel.from_pretrained(resolve("tinyworld:siglip"), output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]


def test_the_pair_has_a_processor_of_both_sides():
    processor = AutoProcessor.from_pretrained(resolve("tinyworld:siglip"))
    made = processor(images=Image.new("RGB", (60, 40)), text=["a photo of a 7"], padding="max_length")
    assert np.asarray(made["pixel_values"]).shape == (1, 3, 48, 48) and len(made["input_ids"][0]) == 24


def test_widths_differ_from_the_bases():
    base = json.loads((PLUGIN.files / "base/config.json").read_text())["vision_config"]["hidden_size"]
    siglip = json.loads((PLUGIN.files / "siglip/config.json").read_text())["vision_config"]["hidden_size"]
    dino = json.loads((PLUGIN.files / "dino/config.json").read_text())["hidden_size"]
    assert len({base, siglip, dino}) == 3


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_card_is_what_the_records_say(name):
    logs = json.loads((PLUGIN.files / towers.RECORD).read_text())["parts"]
    gates = json.loads((PLUGIN.files / "tower_gates.json").read_text())["towers"]
    count = AutoModel.from_pretrained(resolve(f"tinyworld:{name}")).num_parameters()
    assert (PLUGIN.files / name / "README.md").read_text() == card(name, logs[name], gates[name], count)
    assert all(gate["met"] for gate in gates[name].values())


def test_class_folders_hold_each_splits_own_scans(tmp_path):
    export(tmp_path, 20)
    for split in ("train", "validation", "test"):
        assert sorted(path.name for path in (tmp_path / split).iterdir()) == [str(digit) for digit in range(10)]
        shown = np.asarray(Image.open(tmp_path / split / "3" / "0013.png"))
        assert np.array_equal(shown, render(large_digit(split, 13)))
