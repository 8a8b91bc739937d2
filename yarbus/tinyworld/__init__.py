"""The embedded world: real handwritten digits in scenes, tasks over them, and a tiny base model.

Here: everything that makes the world and the base, and the files that ship. It enters through the door open to any
plug-in, and nothing outside knows that it exists. Not here: anything a user's own data or model would also need.
Example: a recipe names ``tinyworld:train/train.json`` and the folder is made on the first use.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from yarbus.core.plugins import Plugin

FOLDER = Path(__file__).parent
TASKS = ("read", "locate", "exist", "colour", "caption", "size", "lean")
"""Of instruction tuning, the same scenes for all. Each has a benchmark."""
CLASSIFICATION = ("classify", "classify-closed", "classify-ood")
"""Large single digits, by benchmark."""


def _make(split: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import_module("yarbus.tinyworld.export").export(split, folder)
        import_module("yarbus.tinyworld.classification").export(split, folder)
        if split != "train":
            import_module("yarbus.tinyworld.shifts").export(split, folder)

    return make


def _make_classes(folder: Path) -> None:
    import_module("yarbus.tinyworld.class_folders").export(folder)


PLUGIN = Plugin(
    name="tinyworld",
    version="4",
    files=FOLDER / "files",
    make={split: _make(split) for split in ("train", "validation", "test")} | {"classes": _make_classes},
    recipes=FOLDER / "recipes",
    benchmarks={
        f"tinyworld/{task}": f"yarbus.tinyworld.benchmarks:{task.upper().replace('-', '_')}"
        for task in TASKS + CLASSIFICATION
    },
)
