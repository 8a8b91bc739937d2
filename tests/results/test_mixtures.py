"""What is asked of the mixtures says where it came from."""

import importlib.util
from pathlib import Path

import pytest

from yarbus.core.records import write_json
from yarbus.studies import conflict as module

RESULTS = Path(__file__).parents[2] / "results"
RECORD = {
    "drift": {"overall": {}},
    "gradients": {"overall": {}, "by_task": {}},
    "gap": {"tasks": {}},
    "advice": dict.fromkeys(("verdict", "action", "headline", "sureness", "blocks")),
}


@pytest.fixture(scope="module")
def mixtures():
    spec = importlib.util.spec_from_file_location("mixtures", RESULTS / "mixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_mixture_is_asked_about_under_its_own_name_and_this_command(mixtures, tmp_path, monkeypatch):
    asked = []

    def conflict(recipe, *, folder, command=None, **options):
        asked.append((recipe.name, folder.name, command))
        folder.mkdir(parents=True)
        write_json(folder / "conflict.json", RECORD)
        return folder

    monkeypatch.setattr(module, "conflict", conflict)
    mixtures.halves(tmp_path)
    for mixture in mixtures.MIXTURES:
        mixtures.advice(mixture, tmp_path)
    names = ["read-twice", "read-and-caption", "read-and-size-1-to-7", "locate-and-lean", "read-and-lean-1-to-7"]
    assert asked == [(name, name, "python results/mixtures.py") for name in names]
