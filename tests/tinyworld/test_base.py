import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer, CLIPVisionModel, LlavaForConditionalGeneration, LlavaProcessor

from yarbus.tinyworld import PLUGIN
from yarbus.tinyworld.export import questions_of, scenes_of
from yarbus.tinyworld.scene import render

BASE = PLUGIN.files / "base"


@pytest.fixture(scope="module")
def base():
    return LlavaForConditionalGeneration.from_pretrained(BASE, local_files_only=True).eval()


@pytest.fixture(scope="module")
def processor():
    return LlavaProcessor.from_pretrained(BASE, local_files_only=True)


def test_the_base_is_loaded_without_a_network_and_its_logits_are_finite(base, processor):
    scenes = scenes_of("train", 4)
    texts = [f"USER: <image>\n{questions_of('train', scene)[0].instruction} ASSISTANT:" for scene in scenes]
    inputs = processor(
        images=[Image.fromarray(render(scene)) for scene in scenes], text=texts, padding=True, return_tensors="pt"
    )
    assert base(**inputs).logits.isfinite().all()
    reply = base.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert reply.shape[1] <= inputs["input_ids"].shape[1] + 4


def test_the_base_is_computed_in_float32_though_it_ships_in_half_precision(base):
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}


def test_the_tower_is_an_unmodified_clip_vision_model(base):
    assert type(base.model.vision_tower) is CLIPVisionModel
    assert base.config.vision_feature_layer == -2


def test_everything_that_ships_is_smaller_than_five_megabytes():
    assert sum(path.stat().st_size for path in PLUGIN.files.rglob("*") if path.is_file()) < 5_000_000


def test_nothing_that_ships_is_a_pickle():
    endings = {path.suffix for path in PLUGIN.files.rglob("*") if path.is_file()}
    assert endings <= {".safetensors", ".json", ".jinja", ".md"}


def test_the_text_encoder_tells_questions_apart():
    folder = PLUGIN.files / "text_encoder"
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def read(text: str) -> torch.Tensor:
        return encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]

    def likeness(first: str, second: str) -> float:
        return torch.cosine_similarity(read(first), read(second), dim=0).item()

    same_task = likeness("where is the 7 ?", "find the cell of the 7 .")
    assert same_task > likeness("where is the 7 ?", "what is the colour of the 7 ?")
    assert same_task > likeness("where is the 7 ?", "where is the 3 ?")
