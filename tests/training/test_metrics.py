import json
from pathlib import Path

from yarbus.core.records import read_jsonl
from yarbus.training.metrics import drop_after, line_of


def test_a_logged_dictionary_becomes_a_line_with_every_group_by_name():
    logs = {"loss": 2.0, "epoch": 0.5, "grad_norm": 5.0, "wall_seconds": 3.0, "samples_per_second": 8.0}
    logs["peak_bytes"] = 2**30
    logs |= {"learning_rate/vision": 1e-3, "gradient_norm/vision": 3.0}
    logs |= {"learning_rate/router": 1e-2, "gradient_norm/router": 4.0, "lowest_learning_rate/router": 1e-3}
    assert line_of(7, logs) == {
        "step": 7,
        "epoch": 0.5,
        "loss": 2.0,
        "gradient_norm": 5.0,
        "groups": {
            "vision": {"learning_rate": 1e-3, "gradient_norm": 3.0},
            "router": {"learning_rate": 1e-2, "lowest_learning_rate": 1e-3, "gradient_norm": 4.0},
        },
        "wall_seconds": 3.0,
        "samples_per_second": 8.0,
        "peak_bytes": 2**30,
    }


def test_lines_of_steps_that_are_done_again_go(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 3, 5)))
    drop_after(path, 3)
    assert read_jsonl(path) == [{"step": 1}, {"step": 3}]
    drop_after(tmp_path / "nothing.jsonl", 3)
