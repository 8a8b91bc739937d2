"""Benchmarks as values."""

import pytest

from yarbus.core.errors import ConfigError
from yarbus.evaluation.benchmark import Benchmark


def test_an_unknown_protocol_names_those_there_are():
    with pytest.raises(ConfigError, match=r"no protocol 'oficial'; fix: use one of: official"):
        Benchmark(name="toy", samples=list).protocol("oficial")


def test_chance_is_one_number_or_one_for_each_metric():
    assert Benchmark(name="toy", samples=list, chance=0.5).chance_of("accuracy") == 0.5
    assert Benchmark(name="toy", samples=list, chance={"a": 0.1}).chance_of("a") == 0.1
    assert Benchmark(name="toy", samples=list, chance={"a": 0.1}).chance_of("b") is None
    assert Benchmark(name="toy", samples=list).chance_of("accuracy") is None
