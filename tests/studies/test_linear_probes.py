import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.tiny.encoders import ENCODERS
from yarbus.core.errors import ConfigError, DataError
from yarbus.core.records import read_jsonl
from yarbus.data.image import open_image
from yarbus.evaluation.classification import read_questions
from yarbus.evaluation.zero_shot import class_benchmark_name
from yarbus.models.bare_encoder import load_bare_encoder
from yarbus.studies.features import Eyes, eyes_of_encoder, eyes_of_model, features_of
from yarbus.studies.linear_probes import eyes_of, is_vision_language_model, linear_probe

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


def write(folder, counts, colours=COLOURS, seed=0):
    """Noisy pictures of one colour per class."""
    random = np.random.default_rng(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(counts):
            pixels = np.clip(random.normal(colour, 12, (28, 28, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"classes:{folder}"


@pytest.fixture
def train(tmp_path):
    return write(tmp_path / "train", 10)


@pytest.fixture
def test(tmp_path):
    return write(tmp_path / "test", 4, seed=1)


def middle(samples):
    """Mean colours: features on which the classes are separable."""
    return torch.tensor(np.stack([np.asarray(open_image(one.images[0])).mean((0, 1)) for one in samples])).float()


def planted(read=middle, identity="planted"):
    return Eyes(feature="pooled", read=read, identity=identity)


def test_planted_features_are_read_without_a_fault(train, test, tmp_path):
    record = linear_probe(planted(), train, [test], tmp_path / "run", epochs=200, progress=False)
    found = record["tests"][test]
    assert found["num_samples"] == 12 and found["chance"] == pytest.approx(1 / 3) and found["num_in_train"] == 0
    for solver in ("lbfgs", "adam"):
        assert found["solvers"][solver]["value"] == 1.0
        assert 0.7 < found["solvers"][solver]["low"] < found["solvers"][solver]["high"] == 1.0
    assert record["num_train"] == 30 and record["num_classes"] == 3


def test_what_is_chosen_does_not_depend_on_the_answers_of_test(train, test, tmp_path):
    """Every test picture put under another class: accuracies differ, no choice does."""
    wrong = tmp_path / "wrong"
    for name, other in zip(COLOURS, (*list(COLOURS)[1:], "red"), strict=True):
        (tmp_path / "test" / name).rename((wrong.mkdir(exist_ok=True) or wrong) / other)
    seeds = (0, 1, 2)
    random = np.random.default_rng(0)
    noise: dict = {}

    def noisy(samples):
        drawn = [noise.setdefault(one.id, torch.from_numpy(random.normal(0, 60, 3)).float()) for one in samples]
        return middle(samples) + torch.stack(drawn)

    mixed = f"classes:{wrong}"
    first = linear_probe(planted(noisy), train, [mixed], tmp_path / "a", seeds=seeds, epochs=40, progress=False)
    for name in COLOURS:
        (wrong / name).rename(wrong / f"{name}-")
    for name, other in zip(COLOURS, (*list(COLOURS)[1:], "red"), strict=True):
        (wrong / f"{other}-").rename(wrong / name)
    second = linear_probe(planted(noisy), train, [mixed], tmp_path / "b", seeds=seeds, epochs=40, progress=False)

    def choices(record):
        return [
            [(one["chosen"], one["held_out_accuracy"]) for one in found["by_seed"]]
            for found in record["tests"][mixed]["solvers"].values()
        ]

    assert choices(first) == choices(second)
    values = [[one["value"] for one in record["tests"][mixed]["solvers"].values()] for record in (first, second)]
    assert values[0] != values[1]


def test_features_are_computed_once_and_kept_in_full_precision(train, test, tmp_path):
    asked = []

    def counting(samples):
        asked.extend(samples)
        return middle(samples)

    for seeds in ((0,), (0, 1)):
        linear_probe(planted(counting), train, [test], tmp_path / "run", seeds=seeds, epochs=2, progress=False)
    assert len(asked) == 42
    linear_probe(planted(counting, "another model"), train, [test], tmp_path / "run", epochs=2, progress=False)
    assert len(asked) == 84
    samples = read_questions(class_benchmark_name(test))
    kept = features_of(planted(counting), samples, tmp_path / "run" / "features", name=test, progress=False)
    assert kept.dtype == np.float32 and np.array_equal(kept, middle(samples).numpy()) and len(asked) == 84


def test_a_run_that_stopped_reads_only_what_is_missing(test, tmp_path):
    samples = read_questions(class_benchmark_name(test))
    asked = []

    def stops(some):
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.extend(some)
        return middle(some)

    with pytest.raises(KeyboardInterrupt):
        features_of(planted(stops), samples, tmp_path / "kept", name=test, batch=4, progress=False)
    rest = []
    eyes = planted(lambda some: rest.extend(some) or middle(some))
    assert np.array_equal(
        features_of(eyes, samples, tmp_path / "kept", name=test, batch=4, progress=False), middle(samples).numpy()
    )
    assert len(rest) == 4


def test_features_that_are_not_finite_are_refused_by_row(train, test, tmp_path):
    with pytest.raises(DataError, match="features are not finite: train:blue/0.png"):
        linear_probe(planted(lambda some: middle(some) * torch.nan), train, [test], tmp_path / "run", progress=False)


def test_every_reply_is_on_disk_beside_the_record(train, test, tmp_path):
    record = linear_probe(planted(), train, [test], tmp_path / "run", seeds=(0, 1), epochs=5, progress=False)
    (place,) = (tmp_path / "run" / "analysis" / "linear_probe").glob("*.json")
    assert json.loads(place.read_text()) == json.loads(json.dumps(record))
    rows = read_jsonl(place.with_suffix(".jsonl"))
    assert len(rows) == 12 * 2 * 2
    for solver, found in record["tests"][test]["solvers"].items():
        assert found["value"] == np.mean([row["is_correct"] for row in rows if row["solver"] == solver])
        assert found["interval"].startswith("bootstrap") and len(found["by_seed"]) == 2


def test_no_record_is_lost_to_one_of_another_model_set_or_option(train, test, tmp_path):
    other, run = write(tmp_path / "other", 3, seed=2), tmp_path / "run"
    options = [(planted(), test, (0,)), (planted(identity="b"), test, (0,)), (planted(), other, (0,))]
    records = [
        linear_probe(eyes, train, [name], run, seeds=seeds, epochs=2, progress=False)
        for eyes, name, seeds in (*options, (planted(), test, (0, 1)))
    ]
    places = sorted((run / "analysis" / "linear_probe").iterdir())
    assert len(places) == 8 and not any(place.name.endswith(".new") for place in places)
    on_disk = [json.loads(place.read_text()) for place in places if place.suffix == ".json"]
    assert all(json.loads(json.dumps(record)) in on_disk for record in records)
    linear_probe(planted(), train, [test], run, epochs=2, progress=False)  # the same again
    assert sorted((run / "analysis" / "linear_probe").iterdir()) == places


def test_a_set_that_offers_names_is_refused(train, test, tmp_path):
    for one, other in ((train, f"{test}#closed=2"), (f"{train}#closed=all", test)):
        with pytest.raises(ConfigError, match="a probe chooses among all classes: .*leave #closed out"):
            linear_probe(planted(), one, [other], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_class_that_train_lacks_is_refused(test, tmp_path):
    two = write(tmp_path / "two", 5, {name: COLOURS[name] for name in ("red", "green")})
    with pytest.raises(DataError, match="train has no class 'blue'"):
        linear_probe(planted(), two, [test], tmp_path / "run", progress=False)


def test_what_leaves_nothing_to_choose_with_is_refused(test, tmp_path):
    with pytest.raises(DataError, match="no class has two pictures"):
        linear_probe(planted(), write(tmp_path / "few", 1), [test], tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="it has one class"):
        one = write(tmp_path / "one", 3, {"red": COLOURS["red"]})
        linear_probe(planted(), one, [test], tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="train and test are the same"):
        linear_probe(planted(), test, [test], tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"solvers": ("svm",)}, "no solver 'svm'"), ({"epochs": 0}, "epochs must be"), ({"seeds": ()}, "seeds must be")],
)
def test_options_that_are_none_are_refused(train, test, tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        linear_probe(planted(), train, [test], tmp_path / "run", progress=False, **option)


def test_test_pictures_that_train_has_too_are_counted_and_told(train, test, tmp_path, capfd):
    (tmp_path / "test" / "red" / "copy.png").write_bytes((tmp_path / "train" / "red" / "0.png").read_bytes())
    (tmp_path / "test" / "red" / "0.png").unlink()
    (tmp_path / "test" / "red" / "copy.png").rename(tmp_path / "test" / "red" / "0.png")
    record = linear_probe(planted(), train, [test], tmp_path / "run", epochs=2, progress=False)
    assert record["tests"][test]["num_in_train"] == 1
    assert "1 of 12 pictures are in" in capfd.readouterr().err


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_bare_encoder_can_be_probed(name, train, test, tmp_path):
    eyes = eyes_of(str(ENCODERS[name](tmp_path / "encoder")), "patches")
    record = linear_probe(eyes, train, [test], tmp_path / "run", solvers=("lbfgs",), progress=False)
    assert record["dim"] == 32 and record["tests"][test]["solvers"]["lbfgs"]["value"] > 0.9


def test_an_identity_knows_the_architecture(tmp_path):
    encoder = load_bare_encoder(str(ENCODERS["clip"](tmp_path)))
    first = eyes_of_encoder(encoder).identity
    encoder.model.config.vision_config.hidden_act = "relu"
    assert eyes_of_encoder(encoder).identity != first
    model, processor = tiny.FAMILIES["llava"]()
    first = eyes_of_model(model, processor).identity
    model.config.vision_feature_layer = -1
    assert eyes_of_model(model, processor).identity != first


def test_the_states_of_a_language_model_are_those_of_its_last_layer(test):
    model, processor = tiny.FAMILIES["llava"]()
    samples = read_questions(class_benchmark_name(test))[::5]
    last, mean = (eyes_of_model(model, processor, feature).read(samples) for feature in ("last", "mean"))
    for row, sample in enumerate(samples):
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.turns[0].words}]}],
            add_generation_prompt=True,
        )
        inputs = processor(images=open_image(sample.images[0]), text=text, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(last[row], states[-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mean[row], states.mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_every_feature_of_a_model_can_be_probed_and_leaves_its_mode_alone(family, test):
    model, processor = tiny.FAMILIES[family]()
    model.train()
    samples = read_questions(class_benchmark_name(test))[:3]
    for feature in ("last", "mean", "vision"):
        eyes = eyes_of_model(model, processor, feature)
        found = eyes.read(samples)
        assert found.shape[0] == 3 and found.dtype == torch.float32 and found.isfinite().all()
        torch.testing.assert_close(eyes.read(samples[:1]), found[:1], atol=1e-4, rtol=1e-4)
    assert model.training


def test_an_unknown_feature_names_those_there_are(tmp_path):
    encoder = load_bare_encoder(str(ENCODERS["dino"](tmp_path)))
    with pytest.raises(ConfigError, match="an encoder has no feature 'last'; fix: use one of: pooled, patches"):
        eyes_of_encoder(encoder, "last")
    model, processor = tiny.FAMILIES["llava"]()
    with pytest.raises(ConfigError, match="use one of: last, mean, vision"):
        eyes_of_model(model, processor, "pooled")


def test_models_that_answer_are_told_from_encoders(tmp_path):
    model, _ = tiny.FAMILIES["llava"]()
    model.config.save_pretrained(tmp_path / "llava")
    assert is_vision_language_model(str(tmp_path / "llava"))
    assert not is_vision_language_model(str(ENCODERS["clip"](tmp_path / "clip")))
    with pytest.raises(ConfigError, match="cannot load model"):
        is_vision_language_model(str(tmp_path / "none"))
