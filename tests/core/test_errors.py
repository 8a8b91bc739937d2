import pytest

from yarbus.core import errors

CODES = {"ConfigError": 2, "DataError": 65, "NonFiniteError": 70, "CheckpointError": 74, "LockedError": 75}


def test_a_message_says_what_where_why_and_how_to_mend_it():
    error = errors.DataError("cannot use picture", where="a.png", why="zero bytes", fix="restore it")
    assert str(error) == "cannot use picture: a.png - zero bytes; fix: restore it"


@pytest.mark.parametrize(("name", "code"), [*CODES.items(), ("MismatchError", 78)])
def test_each_kind_of_error_has_its_exit_code(name, code):
    assert getattr(errors, name).exit_code == code
