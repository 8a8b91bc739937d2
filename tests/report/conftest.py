"""A finished comparison of made-up variants, once for all tests that only read it."""

import pytest

from tests.report.synthetic import write_comparison


@pytest.fixture(scope="session")
def comparison_folder(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparison"), seeds=(0, 1), num_scenes=40)
