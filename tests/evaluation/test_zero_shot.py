import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny.encoders import ENCODERS, PAIRS
from yarbus.core.errors import ConfigError, DataError, MismatchError
from yarbus.core.records import read_jsonl
from yarbus.evaluation.folder import benchmark_folder
from yarbus.evaluation.prompts import PROMPTS, read_prompts
from yarbus.evaluation.runner import evaluate, rescore
from yarbus.evaluation.zero_shot import ENSEMBLE, ONE, PROTOCOLS, zero_shot
from yarbus.models.bare_encoder import load_bare_encoder

CLASSES = ("tabby_cat", "dog", "tiger", "tiger_shark")
COLOURS = ((250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 200))


@pytest.fixture
def folder(tmp_path):
    """Three plain pictures per class, a colour each."""
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            picture = np.full((28, 28, 3), np.array(colour) - 3 * number, dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(request, tmp_path_factory):
    return load_bare_encoder(str(PAIRS[request.param](tmp_path_factory.mktemp(request.param))))


def plant(monkeypatch, encoder) -> None:
    """Lets pictures and texts mean their class: what comes out is known."""
    tokens_of = {word: encoder.tokenizer.convert_tokens_to_ids(word) for word in ("cat", "dog", "tiger", "shark")}

    def texts(tokens):
        has = {word: (tokens["input_ids"] == number).any(1) for word, number in tokens_of.items()}
        rows = [has["cat"], has["dog"], has["tiger"] & ~has["shark"], has["shark"]]
        return torch.stack(rows, dim=1).float() + 0.1

    def pictures(shown, feature="pooled"):
        middles = torch.tensor([np.asarray(picture)[14, 14].tolist() for picture in shown]).float()
        return -torch.cdist(middles, torch.tensor(COLOURS).float())

    monkeypatch.setattr(type(encoder), "text_features", lambda self, tokens: texts(tokens))
    monkeypatch.setattr(type(encoder), "image_features", lambda self, shown, feature="pooled": pictures(shown))


def replies(run, name, protocol=ONE):
    return {
        row["sample_id"]: row["reply"] for row in read_jsonl(benchmark_folder(run, name, protocol) / "replies.jsonl")
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pictures_whose_class_is_planted_are_all_named_right(pair, folder, tmp_path, monkeypatch, protocol):
    plant(monkeypatch, pair)
    name = f"classes:{folder}"
    scores = zero_shot(pair, [name], tmp_path / "run", protocol=protocol, progress=False)[name]
    assert scores["metrics"]["accuracy"]["value"] == 1.0 and scores["metrics"]["accuracy"]["n"] == 12
    assert set(scores["metrics"]) == {"accuracy"}
    assert rescore(benchmark_folder(tmp_path / "run", name, protocol)) == scores


def test_a_class_inside_a_longer_name_is_wrong(pair, folder, tmp_path, monkeypatch):
    """A generated reply "tiger shark" would include "tiger"; an encoder that chose the one did not choose the other."""
    plant(monkeypatch, pair)
    swapped = {"tiger": "tiger_shark", "tiger_shark": "tiger"}
    for old, new in swapped.items():
        (folder / old).rename(folder.parent / new)
    for name in swapped:
        (folder.parent / name).rename(folder / name)
    name = f"classes:{folder}"
    scores = zero_shot(pair, [name], tmp_path / "run", progress=False)[name]
    assert scores["metrics"]["accuracy"]["value"] == 0.5


def test_a_closed_question_is_answered_from_its_own_list(pair, folder, tmp_path):
    name = f"classes:{folder}#closed=2"
    zero_shot(pair, [name], tmp_path / "run", progress=False)
    rows = read_jsonl(benchmark_folder(tmp_path / "run", name, ONE) / "replies.jsonl")
    assert all(f'"{row["reply"]},' in row["question"] or f' {row["reply"]}"' in row["question"] for row in rows)
    scores = json.loads((benchmark_folder(tmp_path / "run", name, ONE) / "scores.json").read_text())
    assert scores["metrics"]["accuracy"]["chance"] == 0.5


def test_replies_are_what_the_models_own_logits_say(pair, folder, tmp_path):
    name = f"classes:{folder}"
    zero_shot(pair, [name], tmp_path / "run", batch=5, progress=False)
    given = replies(tmp_path / "run", name)
    names = sorted(one.replace("_", " ") for one in CLASSES)
    tokens = pair.text_tokens([f"A photo of a {one}" for one in names])
    for sample, reply in given.items():
        picture = Image.open(folder / sample)
        with torch.no_grad():
            logits = pair.model(**tokens, **pair.pixels([picture])).logits_per_image
        assert reply == names[logits.argmax()]


def test_stopped_and_gone_on_it_gives_the_same_replies(pair, folder, tmp_path, monkeypatch):
    name = f"classes:{folder}"
    whole = zero_shot(pair, [name], tmp_path / "whole", progress=False)
    looked, image_features = [], type(pair).image_features

    def stops(self, pictures, feature="pooled"):
        looked.append(len(pictures))
        if len(looked) == 3:
            raise KeyboardInterrupt
        return image_features(self, pictures, feature)

    monkeypatch.setattr(type(pair), "image_features", stops)
    with pytest.raises(KeyboardInterrupt):
        zero_shot(pair, [name], tmp_path / "cut", batch=4, progress=False)
    assert zero_shot(pair, [name], tmp_path / "cut", batch=4, progress=False) == whole
    assert sum(looked) == 16  # twelve pictures, four of them begun twice


def test_replies_under_other_prompts_are_not_mixed(pair, folder, tmp_path):
    name = f"classes:{folder}"
    zero_shot(pair, [name], tmp_path / "run", progress=False)
    with pytest.raises(MismatchError, match="replies of another processor"):
        zero_shot(pair, [name], tmp_path / "run", prompts=["the red {}"], progress=False)
    (folder / "blue").mkdir()
    Image.new("RGB", (28, 28)).save(folder / "blue" / "1.png")
    with pytest.raises(MismatchError):  # one class more is another question to every picture
        zero_shot(pair, [name], tmp_path / "run", progress=False)


def test_replies_of_another_architecture_are_not_mixed(folder, tmp_path):
    place, name = PAIRS["clip"](tmp_path / "clip"), f"classes:{folder}"
    zero_shot(load_bare_encoder(str(place)), [name], tmp_path / "run", progress=False)
    config = json.loads((place / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(MismatchError, match="replies of another model"):
        zero_shot(load_bare_encoder(str(place)), [name], tmp_path / "run", progress=False)


def test_an_encoder_without_a_text_side_is_refused_with_the_reason(folder, tmp_path):
    encoder = load_bare_encoder(str(ENCODERS["dino"](tmp_path / "dino")))
    with pytest.raises(ConfigError, match="Dinov2Model cannot classify without training: .*no text side.*linear probe"):
        zero_shot(encoder, [f"classes:{folder}"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("widths", "why"),
    [
        ((None, 24), "it gives several vectors of a picture, or none"),
        ((24, None), "it gives several vectors of a text, or none"),
        ((24, 20), "its vector of a picture has 24 numbers, that of a text 20"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused_with_the_reason(pair, folder, tmp_path, monkeypatch, widths, why):
    monkeypatch.setattr(type(pair), "widths", lambda self: widths)
    with pytest.raises(ConfigError, match=f"cannot classify without training: .*{why}"):
        zero_shot(pair, [f"classes:{folder}"], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_classes_that_the_tokenizer_reads_alike_are_refused(pair, folder, tmp_path):
    (folder / "dog").rename(folder / "quokka")
    (folder / "tiger").rename(folder / "numbat")
    with pytest.raises(DataError, match="cannot tell 'numbat' from 'quokka'"):
        zero_shot(pair, [f"classes:{folder}"], tmp_path / "run", progress=False)


def test_what_has_no_classes_is_refused(pair, tmp_path):
    with pytest.raises(ConfigError, match="has no classes"):
        zero_shot(pair, ["tinyworld/read"], tmp_path / "run")
    with pytest.raises(ConfigError, match="no protocol 'official'"):
        zero_shot(pair, [f"classes:{tmp_path}"], tmp_path / "run", protocol="official")


def test_a_broken_picture_counts_as_wrong_and_is_told(pair, folder, tmp_path, capfd):
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    name = f"classes:{folder}"
    scores = zero_shot(pair, [name], tmp_path / "run", batch=4, progress=False)[name]
    assert scores["num_errors"] == 1 and "failed and count as wrong" in capfd.readouterr().err


def test_a_language_model_is_not_asked_under_an_encoders_protocol(folder, tmp_path):
    from tests import tiny

    model, processor = tiny.FAMILIES["llava"]()
    with pytest.raises(ConfigError, match="'zero_shot' asks no language model: .*yarbus probe"):
        evaluate(model, processor, [f"classes:{folder}"], tmp_path / "run", protocol=ONE)


def test_the_first_prompt_is_that_of_the_protocol_and_all_have_one_place():
    assert PROMPTS[0] == "A photo of a {}" and len(set(PROMPTS)) == len(PROMPTS) == 20


@pytest.mark.parametrize("text", ["[]", '["no place"]', '["{} and {}"]', "[3]", "{}", "nonsense"])
def test_prompts_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(DataError, match="cannot read prompts"):
        read_prompts(tmp_path / "prompts.json")
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "none.json")


def test_an_ensemble_is_the_mean_direction_of_its_prompts(pair, folder, tmp_path):
    """One prompt said twice is that prompt."""
    name = f"classes:{folder}"
    zero_shot(pair, [name], tmp_path / "once", prompts=["a {}"], protocol=ENSEMBLE, progress=False)
    zero_shot(pair, [name], tmp_path / "twice", prompts=["a {}", "a {}"], protocol=ENSEMBLE, progress=False)
    assert replies(tmp_path / "once", name, ENSEMBLE) == replies(tmp_path / "twice", name, ENSEMBLE)
