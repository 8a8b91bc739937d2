import subprocess
import sys

from yarbus.tinyworld import CLASSIFICATION, PLUGIN
from yarbus.tinyworld.tasks import TASKS


def test_signing_in_imports_nothing_heavy():
    heavy = ("torch", "sklearn", "PIL", "transformers", "numpy")
    code = f"import sys, yarbus.tinyworld; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_benchmark_names_a_task_and_can_be_loaded():
    from yarbus.tinyworld import benchmarks

    for name, where in PLUGIN.benchmarks.items():
        benchmark = getattr(benchmarks, where.partition(":")[2])
        assert benchmark.name == name
        assert benchmark.chance_of("exact_match") == benchmarks.CHANCE[name.removeprefix("tinyworld/")]
    assert {name.removeprefix("tinyworld/") for name in PLUGIN.benchmarks} == {*TASKS, *CLASSIFICATION}


def test_a_recipes_path_is_made_on_the_first_use(tmp_path):
    PLUGIN.make["validation"](tmp_path)
    assert (tmp_path / "validation.json").is_file() and (tmp_path / "images/000000.png").is_file()
    assert all((tmp_path / f"{name}.json").is_file() for name in (*TASKS, *CLASSIFICATION))


def test_the_base_and_its_text_encoder_ship_with_the_package():
    assert (PLUGIN.files / "base/model.safetensors").is_file()
    assert (PLUGIN.files / "text_encoder/model.safetensors").is_file()
    assert (PLUGIN.recipes / "tinyworld.yaml").is_file()
