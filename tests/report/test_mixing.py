"""The figure of mixing weights: its words are those of the records."""

from tests.report.test_html import Balance
from yarbus.report.diagnosis import diagnosis_sections
from yarbus.report.figure import Origin
from yarbus.report.look import Look
from yarbus.report.mixing import mixing_figure
from yarbus.report.runs import Run
from yarbus.report.thumbnails import Album

LOOK = Look(["carpe", "joint"], neutral=())


def record(change, **tasks):
    """Mean and spread by task."""
    lines = {
        task: {
            "n": 10,
            "vision_weight": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01},
            "sd": sd,
            "histogram": [0, 4, 6, 0],
        }
        for task, (mean, sd) in tasks.items()
    }
    return {"tasks": lines, "other_picture": {"n": 10, "largest_change": change}}


def test_the_figure_says_what_differs_and_who_is_deaf_to_pictures():
    records = {
        "carpe": [record(0.0, read=(0.2, 0.1), lean=(0.4, 0.0)), record(0.0, read=(0.3, 0.1), lean=(0.5, 0.0))],
        "joint": [record(0.02, read=(0.5, 0.0), lean=(0.5, 0.0))],
    }
    figure = mixing_figure(records, LOOK)
    assert figure.reading == (
        "Weight of the image's branch: carpe from 0.25 (read) to 0.45 (lean); joint gives every task 0.50."
    )
    assert "Another picture changes no bit of the weights of carpe. Another picture moves joint by up to 0.02." in (
        figure.how
    )
    assert figure.rows[0][:3] == ["carpe", "read", 0.25] and figure.rows[0][5] == 0.1
    Balance().feed(str(figure.body))


def test_without_records_there_is_no_figure_and_with_one_a_section(tmp_path):
    assert mixing_figure({}, LOOK) is None
    runs = [Run(folder=tmp_path, variant="carpe", seed=0, analysis={"mixing": record(None, read=(0.2, 0.1))})]
    (section,) = diagnosis_sections(runs, LOOK, Origin(name="run", command="yarbus report"), Album(tmp_path))
    assert section.title == "Mixing weights" and "0.20" in str(section.content)
