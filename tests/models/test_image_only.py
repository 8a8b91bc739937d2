"""Processors that work without torchvision: built, called, saved, loaded and pickled as the library's are."""

import pickle

import pytest
import transformers
from PIL import Image

import yarbus
from tests import tiny
from tests.models.batches import QUESTIONS, ask
from tests.tiny.llava import llava_tokenizer
from tests.tiny.llava_pixtral import pixtral_images
from yarbus.core.errors import DataError
from yarbus.methods import CoVFT
from yarbus.models import image_only
from yarbus.models.load import load_processor
from yarbus.models.pil_pixtral import PilPixtralProcessor

OWN = [name for name in tiny.EVERY if type(tiny.EVERY[name]()[1]).__name__.startswith(("ImageOnly", "Pil"))]


@pytest.mark.parametrize("name", OWN)
def test_it_is_saved_under_the_library_s_name_and_loads_with_all_its_options(name, pictures, tmp_path):
    model, processor = tiny.EVERY[name]()
    processor.save_pretrained(tmp_path)
    loaded = load_processor(tmp_path, model.config)
    assert type(loaded) is type(processor)
    library = type(processor).__name__.removeprefix("ImageOnly").removeprefix("Pil")
    assert loaded.to_dict()["processor_class"] == library and hasattr(transformers, library)
    mine, theirs = ask(processor, pictures[:2]), ask(loaded, pictures[:2])
    assert mine.keys() == theirs.keys() and all((mine[key] == theirs[key]).all() for key in mine)
    assert {k: v for k, v in loaded.to_dict().items() if k != "tokenizer"} == processor.to_dict()
    assert "video_processor" not in loaded.get_attributes()


@pytest.mark.parametrize("name", [name for name in OWN if not name.endswith(("pixtral", "mistral3"))])
def test_a_video_is_refused_with_the_reason(name, text_encoder, pictures):
    model, processor = tiny.EVERY[name]()
    for attached in (False, True):
        if attached:
            yarbus.attach(model, processor, vision=CoVFT(num_experts=2, context_dim=16), text_encoder=text_encoder)
        with pytest.raises(DataError, match=r"videos are not supported - .*torchvision.*frames as images"):
            processor(text=QUESTIONS[0], videos=[pictures])


@pytest.mark.parametrize("name", OWN)
def test_with_a_question_it_travels_to_worker_processes(name, text_encoder, pictures):
    model, processor = tiny.EVERY[name]()
    yarbus.attach(model, processor, vision=CoVFT(num_experts=2, context_dim=16), text_encoder=text_encoder)
    twin = pickle.loads(pickle.dumps(processor))  # noqa: S301
    assert type(twin) is type(processor)
    assert (ask(twin, pictures[:2])["context_input_ids"] == ask(processor, pictures[:2])["context_input_ids"]).all()


def test_there_is_one_for_each_processor_with_a_video_half_and_for_no_other():
    assert image_only.ImageOnlyQwen2VLProcessor is image_only.ImageOnlyQwen2VLProcessor
    for name in ("ImageOnlyLlavaProcessor", "ImageOnlyNothing", "Qwen2VLProcessor"):
        with pytest.raises(AttributeError, match=name):
            getattr(image_only, name)


def test_an_argument_that_the_library_does_not_know_is_refused():
    _, processor = tiny.EVERY["internvl"]()
    with pytest.raises(TypeError, match="video_processor"):
        type(processor)(processor.image_processor, processor.tokenizer, video_processor=None)


@pytest.mark.parametrize(
    ("merge", "size", "line", "rows"), [(1, [28, 42], ["<image>"] * 3, 2), (2, [28, 56], ["<image>"] * 2, 1)]
)
def test_pixtral_has_a_line_of_tokens_for_each_row_of_patches(merge, size, line, rows):
    tokenizer = llava_tokenizer("[IMG_BREAK]", "[IMG_END]")
    processor = PilPixtralProcessor(
        pixtral_images(), tokenizer, patch_size=14, spatial_merge_size=merge, image_token="<image>"
    )
    batch = processor(images=[Image.new("RGB", (42, 28))], text="what <image> digit", return_tensors="pt")
    words = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert words == ["what", *[*line, "[IMG_BREAK]"] * (rows - 1), *line, "[IMG_END]", "digit"]
    assert batch["image_sizes"].tolist() == [size]
