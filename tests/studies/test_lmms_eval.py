"""lmms-eval asks a Yarbus model: as ``yarbus evaluate`` would, with the question for the eyes and the head.

Most tests run twice: on a stand-in of lmms-eval's documented interface (``harness``), always; and on the package
itself where it is installed, which this project's own environment does not do, since it brings torchvision.
"""

import sys
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict

import yarbus
from tests.docs.pages import ROOT, commands
from tests.models.blends import write_adapter, write_base
from tests.studies import harness as harnesses
from tests.studies.harness import requests_of
from yarbus.core.errors import ConfigError, DataError
from yarbus.data.sample import Sample, Turn
from yarbus.data.stored import OpenPicture
from yarbus.evaluation.asking import Decoding, reply
from yarbus.methods import CARPE, CoVFT
from yarbus.studies import lmms_eval as door
from yarbus.training.run import load_run

PAGE = ROOT / "docs" / "how-to" / "evaluate-with-lmms-eval.md"
QUESTIONS = ("what digit is red ?", "where is the blue one ?", "which colour is the digit ?", "is there a digit ?")
SHORT = {"max_new_tokens": 5, "until": ["\n\n"], "do_sample": False, "temperature": 0.0, "num_beams": 1}
COVFT = {"vision": CoVFT(num_experts=2, context="text", context_dim=16)}


@pytest.fixture(params=["stand-in", "lmms-eval"])
def harness(request, monkeypatch):
    if request.param == "stand-in":
        harnesses.put_stand_in(monkeypatch)
    else:
        pytest.importorskip("lmms_eval.api.model", reason="lmms-eval is not installed")
    yield harnesses.opened()
    sys.modules.pop(harnesses.OURS, None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, text_encoder) -> dict[str, str]:
    """A base, and what was trained on it: an adapter whose eyes hear the question, the same whole, and a head."""
    folder = tmp_path_factory.mktemp("folders")
    base = write_base(folder / "base")
    adapter = write_adapter(folder / "adapter", base, 1, **COVFT, text_encoder=text_encoder)
    whole = folder / "whole"
    yarbus.save(*load_run(adapter), whole)
    head = write_adapter(folder / "head", base, 1, head=CARPE())
    return {"base": base, "adapter": str(adapter), "whole": str(whole), "head": str(head)}


def model_of(harness, *, batch_size=2, **told):
    text = ",".join(f"{name}={value}" for name, value in told.items())
    return harness.Yarbus.create_from_arg_string(text, {"batch_size": batch_size, "device": "cpu"})


def about(pictures, question):
    return {"parts": [*({"type": "image", "url": one} for one in pictures), {"type": "text", "text": question}]}


def sample_about(pictures, question) -> Sample:
    """The same as data of ours has it."""
    shown = tuple(OpenPicture(Path("mine"), f"{question}{number}", one) for number, one in enumerate(pictures))
    return Sample("mine", shown, (Turn("user", "<image>\n" * len(shown) + question),))


def own_replies(folder, shown, **options):
    model, processor = load_run(folder)
    model.eval()
    decoding = Decoding(**{"max_new_tokens": 5, **options})
    return [reply(model, processor, [sample_about(*one)], decoding)[0] for one in shown]


def test_the_entry_point_of_the_package_registers_a_chat_model(harness, monkeypatch):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    assert declared == {"yarbus": f"{door.__name__}:{door.manifest.__name__}"}
    manifest = door.manifest()
    assert (manifest.model_id, manifest.simple_class_path) == ("yarbus", None)
    module, _, name = manifest.chat_class_path.rpartition(".")
    found = getattr(import_module(module), name)
    assert found is harness.Yarbus and issubclass(found, harness.base) and found.is_simple is False


def test_without_lmms_eval_the_model_says_what_is_missing(monkeypatch):
    harnesses.take_away(monkeypatch)
    sys.modules.pop(harnesses.OURS, None)
    with pytest.raises(ConfigError, match=r"lmms-eval cannot be imported - .*; fix: pip install 'yarbus\[eval\]'"):
        import_module(harnesses.OURS)
    with pytest.raises(ImportError):
        door.manifest()


@pytest.mark.parametrize("form", ["adapter", "whole", "base and adapter"])
def test_replies_are_those_of_our_own_evaluation_whatever_the_form(form, harness, folders, pictures):
    told = (
        {"pretrained": folders["base"], "adapter": folders["adapter"]} if " " in form else {"pretrained": folders[form]}
    )
    shown = [([picture], question) for picture in pictures[:2] for question in QUESTIONS]
    model = model_of(harness, **told, batch_size=3)
    found = model.generate_until(requests_of(harness, model, [about(*one) for one in shown], SHORT))
    assert found == own_replies(folders["adapter"], shown)
    assert found != own_replies(folders["base"], shown) and len(set(found)) > 2


def test_a_trained_run_is_taken_by_its_folder(harness, folders, pictures, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{base: {folders['base']}}}\n"
        "stages: {one: {train: {projector: full}, data: [{source: llava, path: x.json}], "
        "learning_rate: {projector: 1.0e-3}, batch: 2, steps: 1}}\n"
    )
    (tmp_path / "adapter").symlink_to(folders["head"])
    model = model_of(harness, pretrained=tmp_path)
    shown = [(pictures[:1], QUESTIONS[0])]
    found = model.generate_until(requests_of(harness, model, [about(*one) for one in shown], SHORT))
    assert found == own_replies(folders["head"], shown)


def test_several_pictures_words_alone_and_one_picture_come_back_in_order(harness, folders, pictures):
    counts = (1, 0, 3, 2, 0, 1, 2)
    shown = [(pictures[:count], QUESTIONS[row % 4]) for row, count in enumerate(counts)]
    expected = own_replies(folders["adapter"], shown)
    for batch_size in (1, 3):
        model = model_of(harness, pretrained=folders["adapter"], batch_size=batch_size)
        assert model.generate_until(requests_of(harness, model, [about(*one) for one in shown], SHORT)) == expected


@pytest.fixture
def given(monkeypatch):
    """What ``generate`` is given from now on, call by call; put on a model by ``given(model)``."""
    calls = []

    def spy(model):
        original = model.model.generate
        monkeypatch.setattr(model.model, "generate", lambda **inputs: calls.append(inputs) or original(**inputs))
        return calls

    return spy


def test_the_eyes_hear_the_words_of_the_user_and_nothing_else(harness, folders, pictures, given):
    system = {"role": "system", "content": [{"type": "text", "text": "describe the picture"}]}
    post = "\nAnswer the question using a single word or phrase."
    first = {"role": "user", "content": about(pictures[:1], QUESTIONS[0])["parts"]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "three"}]}
    second = {"role": "user", "content": [{"type": "text", "text": QUESTIONS[1] + post}]}
    model = model_of(harness, pretrained=folders["adapter"], batch_size=8)
    calls = given(model)
    docs = [{"messages": [system, first]}, {"messages": [first, answer, second]}]
    model.generate_until(requests_of(harness, model, docs, SHORT))
    tokenizer = model.processor.context_tokenizer
    heard = tokenizer.batch_decode(calls[0]["context_input_ids"], skip_special_tokens=True)
    assert heard == [QUESTIONS[0], QUESTIONS[1]]
    read = model.processor.batch_decode(calls[0]["input_ids"])
    assert "describe the picture" in read[0] and "three" in read[1]


def test_a_head_is_told_what_the_user_said(harness, folders, pictures, given):
    model = model_of(harness, pretrained=folders["head"], batch_size=8)
    calls = given(model)
    shown = [(pictures[:1], question) for question in QUESTIONS]
    found = model.generate_until(requests_of(harness, model, [about(*one) for one in shown], SHORT))
    assert found == own_replies(folders["head"], shown)
    told = model.processor.batch_decode(calls[0]["context_prompt_ids"])
    assert sorted(question for question in QUESTIONS for text in told if question in text) == sorted(QUESTIONS)


def test_each_request_is_decoded_by_its_own_settings(harness, folders, pictures, capsys):
    shown = [(pictures[:1], question) for question in QUESTIONS]
    long = own_replies(folders["adapter"], shown)
    end = next(text for text in long if len(text.split()) > 2).split()[1]
    settings = [
        {**SHORT, "image_aspect_ratio": "pad"},
        {**SHORT, "max_new_tokens": 2},
        {**SHORT, "until": [end]},
        {**SHORT, "num_beams": 3},
    ]
    model = model_of(harness, pretrained=folders["adapter"])
    found = model.generate_until(requests_of(harness, model, [about(*one) for one in shown], settings))
    assert found == [
        long[0],
        own_replies(folders["adapter"], shown, max_new_tokens=2)[1],
        long[2].partition(end)[0].strip(),
        own_replies(folders["adapter"], shown, num_beams=3)[3],
    ]
    told = capsys.readouterr().err
    assert "generation settings without effect here: image_aspect_ratio" in told
    assert "yarbus in lmms-eval: 4/4" in told


def test_drawn_replies_repeat_with_the_seed_that_lmms_eval_sets(harness, folders, pictures):
    model = model_of(harness, pretrained=folders["adapter"])
    requests = requests_of(
        harness, model, [about(pictures[:1], QUESTIONS[0])], {**SHORT, "do_sample": True, "temperature": 4.0}
    )
    found = []
    for seed in (0, 0, 1, 2):
        torch.manual_seed(seed)
        found.append(model.generate_until(requests * 3))  # --repeats: the same request again
    assert found[0] == found[1] and len({tuple(one) for one in found}) > 1 and len(set(found[0])) > 1


def test_another_rank_shows_no_progress(harness, folders, pictures, capsys):
    model = model_of(harness, pretrained=folders["base"])
    model._rank = 1
    capsys.readouterr()
    model.generate_until(requests_of(harness, model, [about(pictures[:1], QUESTIONS[0])], {**SHORT, "seed": 0}))
    assert capsys.readouterr().err == ""


def test_weights_come_in_the_precision_that_is_asked_for(harness, folders, pictures):
    docs = [about(pictures[:1], question) for question in QUESTIONS]
    for told in ({"pretrained": folders["adapter"]}, {"pretrained": folders["whole"]}, {"pretrained": folders["head"]}):
        model = model_of(harness, **told, dtype="bfloat16")
        others = {name for name, tensor in model.model.named_parameters() if tensor.dtype != torch.bfloat16}
        assert all(name.startswith("model.context_encoder.encoder.") for name in others)  # its text is encoded once
        assert any(model.generate_until(requests_of(harness, model, docs, SHORT)))


def test_what_cannot_be_meant_is_refused(harness, folders, tmp_path):
    with pytest.raises(ConfigError, match="batch size 'auto': --batch_size"):
        model_of(harness, pretrained=folders["base"], batch_size="auto")
    with pytest.raises(ConfigError, match="unknown dtype 'fp8'.*bfloat16"):
        model_of(harness, pretrained=folders["base"], dtype="fp8")
    with pytest.raises(ConfigError, match="no such run"):
        model_of(harness, pretrained=tmp_path / "none" / "run")
    with pytest.raises(ConfigError, match="cannot load base model"):
        model_of(harness, pretrained=folders["whole"], adapter=folders["adapter"])
    with pytest.raises(TypeError, match="max_batch_size"):
        model_of(harness, pretrained=folders["base"], max_batch_size=8)


def test_requests_of_another_kind_are_refused_with_the_reason(harness, folders, pictures):
    model = model_of(harness, pretrained=folders["base"])
    with pytest.raises(ConfigError, match="log-likelihood requests are not supported: lmms-eval - .*generate_until"):
        model.loglikelihood([])
    with pytest.raises(ConfigError, match="several rounds"):
        model.generate_until_multi_round([])
    video = [about([], "what ?"), {"parts": [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "what ?"}]}]
    with pytest.raises(DataError, match="a task with video input: toy/test:1"):
        model.generate_until(requests_of(harness, model, video, SHORT))


def test_a_question_that_fails_is_told_and_has_an_empty_reply(harness, folders, pictures, capsys):
    docs = [about(pictures[:1], question) for question in QUESTIONS]
    model = model_of(harness, pretrained=folders["adapter"], batch_size=4)
    whole = model.generate_until(requests_of(harness, model, docs, SHORT))
    docs[2] = about(["nowhere.png"], QUESTIONS[2])
    capsys.readouterr()
    found = model.generate_until(requests_of(harness, model, docs, SHORT))
    assert found == [*whole[:2], "", whole[3]]
    assert "empty reply: toy/test:2 - DataError: cannot use picture: nowhere.png" in capsys.readouterr().err


def test_many_questions_that_fail_stop_the_evaluation(harness, folders, pictures):
    model = model_of(harness, pretrained=folders["base"], batch_size=4)
    broken, good = about(["nowhere.png"], QUESTIONS[0]), about(pictures[:1], QUESTIONS[0])
    with pytest.raises(DataError, match="all 1 questions failed: toy/test:0 - .*nowhere.png"):
        model.generate_until(requests_of(harness, model, [broken], SHORT))
    with pytest.raises(DataError, match="3 of 5 questions failed: toy/test:3 - .*nowhere.png"):
        model.generate_until(requests_of(harness, model, [good, broken, broken, broken, good], SHORT))


def test_the_how_to_page_passes_arguments_that_the_model_takes(harness):
    lines = commands(PAGE, "lmms-eval") + commands(PAGE, "torchrun")
    given = [line[line.index("--model_args") + 1] for line in lines if "--model_args" in line]
    names = {part.partition("=")[0] for text in given for part in text.split(",")}
    assert len(given) >= 3 and names and names <= set(signature(harness.Yarbus.__init__).parameters)
    assert all(line[line.index("--model") + 1] == "yarbus" for line in lines if "--model" in line)


TASK = """
task: {name}
dataset_path: {data}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function toy.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 5, temperature: 0, do_sample: false}}
process_results: !function toy.right
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
FUNCTIONS = """
def pictures(doc):
    return [doc["image"].convert("RGB")]

def right(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


@pytest.mark.parametrize("given_as", ["name", "file"])
def test_lmms_eval_itself_scores_a_task_of_pictures(given_as, folders, pictures, tmp_path):
    """The package from its registry to its table: the only test here that a stand-in cannot take."""
    evaluator = pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed")
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    MODEL_REGISTRY_V2.register_manifest(door.manifest(), overwrite=True)  # an old install lacks the entry point
    shown = [(pictures[row : row + 1], QUESTIONS[row % 4]) for row in range(6)]
    answers = own_replies(folders["adapter"], shown)
    rows = [
        {"image": picture, "question": question, "answer": answers[row] if row < 3 else "never said"}
        for row, ((picture,), question) in enumerate(shown)
    ]
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(tmp_path / "data")
    name = f"toy_{given_as}"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, data=tmp_path / "data"))
    (tmp_path / "tasks" / "toy.py").write_text(FUNCTIONS)
    task = name if given_as == "name" else load_yaml_config(str(tmp_path / "tasks" / f"{name}.yaml"))
    found = evaluator.simple_evaluate(
        model="yarbus",
        model_args=f"pretrained={folders['adapter']}",
        tasks=[task],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), model_name="yarbus"),
        batch_size=4,
        device="cpu",
    )
    assert found["results"][name]["right,none"] == 0.5
    assert found["config"]["model_backend"] == f"{harnesses.OURS}.Yarbus (chat)"
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"][0] for sample in samples] == answers
