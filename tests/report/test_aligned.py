"""What variants differ in is said in words."""

from yarbus.report.aligned import besides, checked


def test_what_differs_besides_the_method_is_named_with_its_values():
    differs = {
        "stages.instruct.fraction": {"frozen": 1.0, "half": 0.5, "full": 1.0},
        "stages.instruct.batch": {"a": 1, "b": 2, "c": 3, "d": 4},
    }
    assert besides({"differs": differs}) == (
        "Besides the method, variants differ in stages.instruct.fraction: 1.0 (frozen, full), 0.5 (half); "
        "stages.instruct.batch: 4 values."
    )
    assert besides({}) == besides({"differs": {}}) == ""


def test_an_entry_that_few_variants_lack_is_one_difference_of_those():
    many = [f"v{number}" for number in range(9)]
    settings = {"source": "llava", "share": 0.125, "images": None}
    differs = {
        f"stages.mixed.data.1.{key}": {**dict.fromkeys(many, value), "words": "absent"}
        for key, value in settings.items()
    }
    differs["stages.mixed.data.0.path"] = {**dict.fromkeys(many[:4], "a"), **dict.fromkeys(many[4:], "b")}
    assert besides({"differs": differs}) == (
        "Besides the method, variants differ in stages.mixed.data.1: there (the others), absent (words); "
        "stages.mixed.data.0.path: a (v0, v1, v2, v3), b (v4, v5, v6, v7, v8)."
    )


def test_a_setting_that_an_entry_lacks_is_not_the_entry():
    differs = {"stages.mixed.data.1.share": {"a": 0.5, "b": "absent"}}
    assert besides({"differs": differs}).endswith("stages.mixed.data.1.share: 0.5 (a), absent (b).")


def test_what_was_checked_is_counted_and_what_is_unknown_named():
    facts = [("data", ["align"]), ("data", ["a", "b"]), ("base", ["align", "a", "b"]), ("start", ["a", "b"])]
    record = {"checked": [{"fact": fact, "runs": runs} for fact, runs in facts], "unknown": ["c"]}
    assert checked(record) == (
        "Checked on the disk, by hash, to be the same: samples of 3 runs in 2 sets; base of 3 runs; start of 2 runs. "
        "Nothing is known of c, which kept no checkpoint."
    )
    assert checked({}) == ""


def test_what_runs_were_asked_is_counted_by_benchmark():
    facts = [
        ("questions", "a", ["x", "y"]),
        ("questions", "b", ["x", "y"]),
        ("prompt", None, ["x"]),
        ("prompt", None, ["y"]),
    ]
    record = {"checked": [{"fact": fact, "benchmark": name, "runs": runs} for fact, name, runs in facts]}
    assert checked(record) == (
        "Checked on the disk, by hash, to be the same: questions and answers of 2 runs in 2 benchmarks; "
        "way of asking of 2 runs in 2 sets."
    )
