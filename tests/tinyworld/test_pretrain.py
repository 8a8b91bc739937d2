import json

import torch
from transformers import AutoModel, LlavaForConditionalGeneration

from yarbus.tinyworld import pretrain
from yarbus.tinyworld.decoder import DecoderSchedule
from yarbus.tinyworld.text_encoder import TextSchedule
from yarbus.tinyworld.tower import TowerSchedule


def shorten(monkeypatch):
    short = {"steps": 2, "batch": 2, "log_every": 1, "save_every": 1, "warmup_steps": 1}
    for name, schedule in (
        ("TowerSchedule", TowerSchedule),
        ("DecoderSchedule", DecoderSchedule),
        ("TextSchedule", TextSchedule),
    ):
        monkeypatch.setattr(pretrain, name, lambda schedule=schedule: schedule(**short))


def test_the_command_makes_a_base_that_loads_and_says_how(tmp_path, monkeypatch):
    shorten(monkeypatch)
    assert pretrain.pretrain(tmp_path / "work", tmp_path / "files")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "files/base", local_files_only=True)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert AutoModel.from_pretrained(tmp_path / "files/text_encoder").config.hidden_size == 64
    record = json.loads((tmp_path / "files/pretraining.json").read_text())
    assert [log["step"] for log in record["parts"].values()] == [2, 2, 2]
    assert {log["schedule"]["seed"] for log in record["parts"].values()} == {1967}


def test_stopped_for_time_and_resumed_it_makes_the_same_base(tmp_path, monkeypatch):
    shorten(monkeypatch)
    assert pretrain.pretrain(tmp_path / "whole", tmp_path / "first")
    assert not pretrain.pretrain(tmp_path / "work", tmp_path / "second", minutes=0.0)
    assert not (tmp_path / "second").exists()
    assert pretrain.pretrain(tmp_path / "work", tmp_path / "second", resume=True)
    first, second = (
        LlavaForConditionalGeneration.from_pretrained(tmp_path / name / "base").state_dict()
        for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
