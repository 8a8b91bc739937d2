"""A run as a folder for others: plain where it can be, refused by plain loaders where it cannot; and its card."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

import yarbus
from tests import tiny
from tests.models.batches import ask
from tests.models.blends import trained, write_adapter, write_base
from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.records import read_json
from yarbus.methods import CoVFT, LoRA
from yarbus.models.load import load_base
from yarbus.models.registers import drop_registers
from yarbus.studies import export as exporting
from yarbus.studies.card import hub_name, without_folders
from yarbus.studies.export import export
from yarbus.studies.servers import Verdict, verdicts

LORA = LoRA(rank=2, dropout=0.0)
COVFT = CoVFT(num_experts=2, context_dim=16)
PLAIN = {
    "bitfit": {"vision": "bitfit"},
    "layernorm": {"vision": "layernorm", "projector": "full"},
    "full": {"vision": "full", "projector": "full", "language": "full"},
    "lora": {"vision": LORA, "language": LORA},
    "lora with the rest trained": {"vision": LoRA(rank=2, dropout=0.0, rest="trained"), "projector": "full"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("kind", PLAIN)
def test_what_can_be_folded_is_loaded_by_plain_transformers_with_equal_logits(kind, base, pictures, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base, 1, **PLAIN[kind])
    mine, its_processor = yarbus.load_adapter(*load_base(base), adapter)
    written = export(adapter, tmp_path / "out")
    assert (
        written.is_plain
        and not written.stays
        and set(written.folded) == {place for place, method in PLAIN[kind].items() if isinstance(method, LoRA)}
    )
    theirs, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    batch = ask(processor, pictures)
    expected = logits(mine, ask(its_processor, pictures))
    torch.testing.assert_close(logits(theirs, batch), expected, atol=2e-5, rtol=1e-5)
    untuned = logits(load_base(base)[0], batch)
    assert (expected - untuned).abs().max() > 1e-2  # else equality would say nothing
    assert read_json(tmp_path / "out" / "config.json")["architectures"] == ["LlavaForConditionalGeneration"]
    assert "yarbus" not in read_json(tmp_path / "out" / "config.json")


def test_what_cannot_be_folded_is_a_full_model_that_plain_transformers_refuses(base, text_encoder, pictures, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision=COVFT, language=LORA, text_encoder=text_encoder)
    mine, its_processor = yarbus.load_adapter(*load_base(base), adapter)
    written = export(adapter, tmp_path / "out")
    assert (written.is_plain, written.stays, written.folded) == (False, {"vision": "covft"}, ("language",))
    theirs, processor = yarbus.load(tmp_path / "out")
    expected = logits(mine, ask(its_processor, pictures))
    torch.testing.assert_close(logits(theirs, ask(processor, pictures)), expected, atol=2e-5, rtol=1e-5)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    # What the table says of servers that choose by architecture or by model_type.
    config = read_json(tmp_path / "out" / "config.json")
    assert config["architectures"] == ["ContextLlavaForConditionalGeneration"] and config["model_type"] == "llava"
    said = {row["server"]: row["verdict"] for row in written.servers}
    assert said["transformers"] == said["vLLM"] == "refuses" and said["TGI"] == "ignores"
    assert said["yarbus.load"] == "honours"


def test_a_model_that_drops_registers_is_for_yarbus_alone_and_is_said_to_be(pictures, tmp_path):
    model, processor = tiny.EVERY["llava_dinov2_registers"]()
    drop_registers(model, processor)
    yarbus.save(model, processor, tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", str(tmp_path / "base"), 1, vision=LORA, projector="full")
    mine, its_processor = yarbus.load_adapter(*load_base(str(tmp_path / "base")), adapter)
    written = export(adapter, tmp_path / "out")
    assert (written.kind, written.is_plain, written.stays, written.folded) == ("registers", False, {}, ("vision",))
    theirs, processor = yarbus.load(tmp_path / "out")
    expected = logits(mine, ask(its_processor, pictures))
    torch.testing.assert_close(logits(theirs, ask(processor, pictures)), expected, atol=2e-5, rtol=1e-5)
    # What the table says of transformers.
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="do not match"):
        logits(plain, ask(AutoProcessor.from_pretrained(tmp_path / "out"), pictures))
    assert {row["server"] for row in written.servers if row["verdict"] == "honours"} == {"yarbus.load"}
    text = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "yarbus"
    assert "yarbus.load" in text and "fails at the first picture" in text and "AutoModel" not in text


def test_a_blend_and_a_full_model_are_exported_as_they_are(base, pictures, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision="layernorm")
    blend = yarbus.interpolate(base, adapter, 0.5, out=tmp_path / "half")
    assert export(blend, tmp_path / "from blend").is_plain
    again = export(tmp_path / "from blend", tmp_path / "again")
    assert again.is_plain and again.folded == ()
    model, processor = yarbus.load_adapter(*load_base(base), blend)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "again")
    batch = ask(processor, pictures)
    torch.testing.assert_close(logits(theirs, batch), logits(model, batch), atol=1e-6, rtol=1e-6)


def test_the_precision_asked_for_is_the_one_that_is_written(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision=LORA)
    assert export(adapter, tmp_path / "out", dtype="bfloat16").dtype == "bfloat16"
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(base, tmp_path, monkeypatch):
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision="bitfit")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match=f"there is something already: {full}"):
        export(adapter, full)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]

    def no_space(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(exporting, "write_json", no_space)
    with pytest.raises(OSError, match="No space"):
        export(adapter, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "full"]


class Hub:
    """What ``HfApi`` does, without a network."""

    def __init__(self, fails: Exception | None = None):
        self.calls, self.fails = [], fails

    def __call__(self):
        return self

    def create_repo(self, name, *, private, exist_ok):
        if self.fails is not None:
            raise self.fails
        self.calls.append(("create", name, private, exist_ok))

        class Url(str):
            repo_id = f"me/{name}"

        return Url(f"https://huggingface.co/me/{name}")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_a_push_uploads_the_whole_folder_with_a_card_that_names_the_repository(base, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(exporting, "HfApi", hub)
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision="bitfit")
    written = export(adapter, tmp_path / "out", push_to_hub="tuned", private=True)
    assert written.url == "https://huggingface.co/me/tuned"
    (create, upload) = hub.calls
    assert create == ("create", "tuned", True, True) and upload[1] == "me/tuned"
    assert {"README.md", "config.json", "export.json", "model.safetensors"} <= set(upload[2])
    assert 'from_pretrained("tuned")' in (tmp_path / "out" / "README.md").read_text()


def test_a_push_that_fails_keeps_the_folder_and_tells_how_to_upload_it(base, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "HfApi", Hub(OSError("no network")))
    adapter = write_adapter(tmp_path / "adapter", base, 1, vision="bitfit")
    with pytest.raises(CheckpointError, match="no network; fix: log in .* hf upload me/tuned"):
        export(adapter, tmp_path / "out", push_to_hub="me/tuned")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "what"), [({"push_to_hub": "a/b/c"}, "no repository"), ({"private": True}, "private")]
)
def test_a_wrong_push_is_told_before_anything_is_loaded(options, what, tmp_path):
    with pytest.raises(ConfigError, match=what):
        export(tmp_path / "nowhere", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_the_card_of_a_run_says_what_was_trained_how_well_it_does_and_no_path(base, tmp_path):
    run = tmp_path / "runs" / "mine"
    model, processor = trained(base, 1, vision=LORA, projector="full")
    yarbus.save_adapter(model, run / "adapter", processor)
    data = [{"source": "llava", "path": "/home/me/secret/rows.json", "images": "/home/me/secret"}]
    stage = {
        "train": {"vision": {"method": "lora", "rank": 2, "dropout": 0.0}, "projector": {"method": "full"}},
        "data": data, "learning_rate": {"vision_new": 2e-4, "projector": 1e-3}, "batch": 4, "steps": 10,
    }  # fmt: skip
    recipe = {"model": {"base": base}, "stages": {"instruct": stage}, "evaluation": ["file:/home/me/secret/rows.json"]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (run / "environment.json").write_text(json.dumps({"packages": {"torch": "2.13.0", "yarbus": "0.1"}}))
    scores = {
        "benchmark": "file:/home/me/secret/rows.json", "protocol": "official",
        "metrics": {"accuracy": {"value": 0.75, "low": 0.5, "high": 0.875, "n": 8, "interval": "wilson"},
                    "points": {"value": 1012.5, "low": 1000.0, "high": 1030.0, "n": 8, "interval": "bootstrap"}},
    }  # fmt: skip
    place = run / "evaluation" / "final" / "rows@official"
    place.mkdir(parents=True)
    (place / "scores.json").write_text(json.dumps(scores))
    export(run, tmp_path / "out", dtype="bfloat16")
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "transformers" and "license" not in head and "base_model" not in head
    for said in (
        "| vision | lora | rank 2", "file:rows.json/accuracy | 75 % | 50 to 87.5 | 8", "points | 1012 | 1000 to 1030",
        "| instruct | vision lora, projector full | 10 steps of 4 rows | vision_new 0.0002, projector 0.001",
        "torch 2.13.0", "AutoModelForImageTextToText", "folded into the weights: vision", "license:", "TGI",
    ):  # fmt: skip
        assert said in text, said
    assert "/home" not in text and str(tmp_path) not in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["stages"]["instruct"]["batch"] == 4


def test_only_a_hub_name_is_given_as_the_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert hub_name("runs/base") is None and hub_name("runs/other") == "runs/other"
    assert hub_name("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    assert [hub_name(name) for name in ("/a/b", "tinyworld:base", "./b", "b", "a/b/c", "")] == [None] * 6
    assert without_folders({"a": ["~/x/y", "file:/x/y#seed=1", "plain", 3]}) == {
        "a": ["y", "file:y#seed=1", "plain", 3]
    }


@pytest.mark.parametrize("kind", ["plain", "registers", "full"])
def test_every_program_has_a_verdict_with_a_reason_on_each_kind_of_folder(kind):
    found = verdicts(kind)
    assert len({row["server"] for row in found}) == len(found) > 5
    for row in found:
        assert row["verdict"] in get_args(Verdict) and row["why"].strip()
        # What Yarbus computes by itself is honoured by Yarbus, and an ordinary folder by all who serve its base.
        assert (row["verdict"] == "honours") == (kind == "plain" or row["server"] == "yarbus.load")
