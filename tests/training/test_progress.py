import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from yarbus.training.progress import StageProgress, duration


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (42.4, "0:42"), (725.0, "12:05"), (11525.0, "3:12:05")])
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


def test_without_a_terminal_progress_is_plain_lines_with_the_time_left(capsys, monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr("yarbus.training.progress.time.monotonic", lambda: now[0])
    state = TrainerState(global_step=0, max_steps=40, is_world_process_zero=True)
    told = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"), state, TrainerControl())
    shown = StageProgress("align")
    shown.on_train_begin(*told)
    for step, seconds in ((10, 5.0), (20, 30.0), (40, 60.0)):
        now[0], state.global_step = 100.0 + seconds, step
        shown.on_log(*told, logs={"loss": 1.25})
    shown.on_train_end(*told)
    assert capsys.readouterr().err == "align 20/40 loss 1.2500 0:30 left\nalign 40/40 loss 1.2500\n"
