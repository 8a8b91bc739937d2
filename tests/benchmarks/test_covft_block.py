"""The benchmark runs at tiny sizes, compares like with like, and writes what it prints."""

import json

import torch

from benchmarks.covft_block import Sizes, bytes_kept, layers_of, main

TINY = ["--dim", "32", "--hidden", "64", "--tokens", "5", "--experts", "3", "--context-dim", "16"]


def test_it_prints_a_table_and_writes_a_record(capsys, tmp_path):
    file = tmp_path / "made" / "block.json"
    record = main([*TINY, "--images", "3", "--repeats", "2", "--output", str(file)])
    assert json.loads(file.read_text()) == record
    assert set(record["layers"]) == {"loop", "dense", "merged", "plain"}
    assert record["layers"]["loop"]["time"] == record["layers"]["loop"]["bytes"] == 1.0
    assert record["largest_difference_dense_loop"] < 1e-5
    assert all(len(layer["all_seconds"]) == 2 and layer["bytes_kept"] > 0 for layer in record["layers"].values())
    assert record["environment"]["packages"]["torch"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[2].split()[0] == "dense" and lines[2].split()[3] == "1.0"


def test_bytes_kept_are_those_of_activations_each_once():
    layers = layers_of(Sizes(dim=32, hidden=64, tokens=5, experts=3, context_dim=16), 2, "cpu", torch.float32)
    tokens = torch.randn(2, 5, 32, requires_grad=True)
    question = torch.randn(2, 16)
    # A plain network of quick_gelu keeps its input, and of the hidden units: before, sigmoid, after.
    expected = 4 * 2 * 5 * (32 + 3 * 64)
    assert bytes_kept(layers["plain"], tokens, question) == expected
    assert bytes_kept(layers["dense"], tokens, question) < bytes_kept(layers["loop"], tokens, question)
