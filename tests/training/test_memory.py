"""The peak of a process."""

import torch

from yarbus.training import memory

CPU = torch.device("cpu")
BIG = 300 * 2**20


def test_the_peak_of_a_process_stays_after_memory_is_given_back_and_falls_when_it_is_reset():
    memory.reset_peak(CPU)
    before = memory.peak_bytes(CPU)
    block = bytearray(BIG)
    block[:: 2**12] = b"x" * (BIG // 2**12)  # touched, or it takes no memory
    del block
    assert memory.peak_bytes(CPU) >= before + BIG // 2
    if memory.RESET.exists():
        memory.reset_peak(CPU)
        assert memory.peak_bytes(CPU) < before + BIG // 2


def test_without_the_systems_files_it_is_the_peak_of_the_whole_life(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "RESET", tmp_path / "none" / "none")
    memory.reset_peak(CPU)
    assert memory.peak_bytes(CPU) > 2**20


def test_what_a_process_takes_now_rises_and_falls():
    before = memory.bytes_now(CPU)
    block = bytearray(BIG)
    block[:: 2**12] = b"x" * (BIG // 2**12)
    taken = memory.bytes_now(CPU)
    assert taken >= before + BIG // 2
    del block
    assert not memory.STATUS.is_file() or memory.bytes_now(CPU) < taken - BIG // 2
