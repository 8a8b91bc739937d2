"""What a user can do wrong, one class per exit code (design.md, section 9).

A ``UserError`` is one message of at most three lines that names the thing, the reason and the
fix. The command line prints it without a traceback and leaves with its ``exit_code``.
"""

from typing import Any


class UserError(Exception):
    """Something the user can mend. Prints as ``error: WHAT: WHERE - why; fix: HOW``."""

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, why: str = "", fix: str) -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        message = what
        if where is not None:
            message += f": {where}"
        if why:
            message += f" - {why}"
        super().__init__(f"{message}; fix: {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel from worker processes."""
        return _again, (type(self), self.what, self.where, self.why, self.fix)


def _again(cls: type[UserError], what: str, where: object, why: str, fix: str) -> UserError:
    return cls(what, where=where, why=why, fix=fix)


class ConfigError(UserError):
    """A recipe, option or command line that cannot be meant."""

    exit_code = 2


class DataError(UserError):
    """An image, question or answer that cannot be used."""

    exit_code = 65


class NonFiniteError(UserError):
    """A loss or gradient became NaN or infinite; weights are as they were before the step."""

    exit_code = 70


class CheckpointError(UserError):
    """A checkpoint or the disk below it is damaged, incomplete or full."""

    exit_code = 74


class LockedError(UserError):
    """Another process is writing here."""

    exit_code = 75


class MismatchError(UserError):
    """An adapter, base or run that does not belong to what it was given."""

    exit_code = 78
