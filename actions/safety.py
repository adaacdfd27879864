"""What keeps an action from doing more than was meant."""

from typing import Any

from reporting.problems import USAGE, Problem, ProblemError


class RequestError(ProblemError):
    """What was asked makes no sense; nothing was changed."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(Problem(what, remedy, exit_status=USAGE))


class MoreThanExpectedError(ProblemError):
    """More e-mails fit now than the operator was shown; nothing was changed."""

    def __init__(self, found: int, expected: int) -> None:
        what = f'{found} e-mails fit now, not {expected}: nothing was changed'
        super().__init__(Problem(what, 'look at them again'))


def agree(_plan: Any) -> None:
    """Agree to any plan: the caller has asked already, or need not ask."""


def refuse_more(found: int, expected: int | None) -> None:
    """Refuse to change more than was expected.

    Args:
        expected: None when nobody was shown a number.
    Raises:
        MoreThanExpectedError: more were found.
    """
    if expected is not None and found > expected:
        raise MoreThanExpectedError(found, expected)
