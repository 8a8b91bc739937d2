from yarbus.core import progress
from yarbus.core.progress import progress_of


def test_without_a_terminal_progress_is_plain_lines_with_the_time_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with progress_of("encode questions", 40, shown=True) as advance:
        for count, seconds in ((10, 5.0), (10, 30.0), (20, 360.0)):
            now[0] = 100.0 + seconds
            advance(count)
    assert capsys.readouterr().err == "encode questions: 20/40, 30 s left\nencode questions: 40/40, 0 s left\n"


def test_nothing_is_shown_where_nobody_asks_or_there_is_nothing_to_do(capsys):
    for total, shown in ((3, False), (0, True)):
        with progress_of("encode questions", total, shown) as advance:
            advance(total)
    assert capsys.readouterr().err == ""
