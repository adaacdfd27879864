"""What queueing asks of a connection, written once for every driver, async or not.

A function that makes steps yields each statement and gets its rows; whoever has the connection runs
them (`run_steps`, `run_steps_async`).
"""

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.statement import Row, Statement, rows_as_json


class Ask(NamedTuple):
    """A statement to run once for each of the rows.

    The answer is what each run returned first, in order; nothing where it returns no rows. One that
    may fail runs in a savepoint, and is answered with no rows when it did.
    """

    statement: Statement
    rows: Sequence[Row] = ({},)
    may_fail: bool = False


Answer = list[tuple[Any, ...]]
T = TypeVar('T')
Steps = Generator[Ask, Answer, T]


def calls(
    statement: Statement, rows: Sequence[Row], *, as_json: bool = False
) -> list[tuple[Statement, dict[str, Any]]]:
    """Return the statements to run, with their values, for a driver that runs one at a time.

    Args:
        as_json: One row as well goes the way of many.
    """
    if (len(rows) > 1 or as_json) and statement.many is not None:
        return [(statement.many, {'rows': rows_as_json(map(statement.by_name, rows))})]
    return [(statement, statement.by_name(row)) for row in rows]


def has_literals(statement: Statement, rows: Iterable[Row]) -> bool:
    """Tell whether one of the rows has a value that is given as text, see Statement.literals."""
    return any(row[name] is not None for row in rows for name in statement.literals)


# Which value it was: by its number, or as it stands in the text.
NUMBERED = re.compile(r'(?:query argument|portal parameter) \$(\d+)')
QUOTED = re.compile(r'(?:type \w+: |value )"(.*?)"(?: is out of range.*)?$', re.DOTALL)
NOISE = re.compile(
    r'^(<.*>: )?(invalid input for query argument [^:]*: )?|\n(CONTEXT|LINE).*', re.DOTALL
)


def unsuitable_value(error: object, statement: Statement, rows: Iterable[Row]) -> InvalidEmailError:
    """Return the refusal of a value that is not of its column's type.

    Args:
        error: What the driver says; not every one tells which value it is.
        rows: What the statement was run with.
    """
    said = str(error)
    found, why = NUMBERED.search(said), NOISE.sub('', said)
    name: str | None = None
    # $1 may be all rows together.
    if found is not None and len(statement.parameters) >= int(found[1]) > 1:
        name = statement.parameters[int(found[1]) - 1]
    elif quoted := QUOTED.search(why):
        given = (n for row in rows for n in statement.parameters if str(row[n]) == quoted[1])
        name = next(given, None)
    return InvalidEmailError(why if name is None else f'{name}: {why}')


class SyncDriver(Protocol):
    """A connection whose statements return when they are done.

    Attributes:
        errors: What a statement of the driver's raises when it fails.
    """

    is_async: ClassVar[Literal[False]]
    errors: ClassVar[tuple[type[Exception], ...]]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: whether what is queued has yet to be committed."""
        ...

    def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """Run a statement for each of the rows, in the caller's transaction.

        Raises:
            InvalidEmailError: a value is not of its column's type.
        """
        ...

    def atomic(self) -> AbstractContextManager[Any]:
        """Return a savepoint; a transaction, where none can be open by itself."""
        ...


class AsyncDriver(Protocol):
    """A connection whose statements are awaited; see SyncDriver."""

    is_async: ClassVar[Literal[True]]
    errors: ClassVar[tuple[type[Exception], ...]]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    async def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """Run a statement for each of the rows, in the caller's transaction."""
        ...

    def atomic(self) -> AbstractAsyncContextManager[Any]:
        """Return a savepoint; a transaction, where none can be open by itself."""
        ...


def run_steps(driver: SyncDriver, steps: Steps[T]) -> T:
    """Run what the steps ask for; return their result."""
    answer: Answer | None = None
    while True:
        try:
            ask = next(steps) if answer is None else steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        if not ask.may_fail:
            answer = driver.run(ask.statement, ask.rows)
            continue
        try:
            with driver.atomic():
                answer = driver.run(ask.statement, ask.rows)
        except driver.errors:
            answer = []


async def run_steps_async(driver: AsyncDriver, steps: Steps[T]) -> T:
    """Run what the steps ask for; return their result."""
    answer: Answer | None = None
    while True:
        try:
            ask = next(steps) if answer is None else steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        if not ask.may_fail:
            answer = await driver.run(ask.statement, ask.rows)
            continue
        try:
            async with driver.atomic():
                answer = await driver.run(ask.statement, ask.rows)
        except driver.errors:
            answer = []
