"""What a command changed goes into the audit, after it: whoever types it waits and sees."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import asyncpg

from db.audit import add_audit
from ops.answer import Answer
from ops.connect import Connections
from ops.person import this_person
from reporting.problems import Level, Problem, ProblemError

NOT_DETAILS = ('command', 'dry_run', 'yes', 'json')


def has_changed(options: argparse.Namespace, given: Answer) -> bool:
    """Whether a command may have changed something: it has --dry-run, and it was not given."""
    return getattr(options, 'dry_run', True) is False and bool(given.document)


async def note_change(connections: Connections, options: argparse.Namespace, given: Answer) -> None:
    """Write down what a command did; when that fails, it is among the answer's problems.

    A server that is away has been named already, where the command needed it.
    """
    adding = partial(
        add_audit,
        actor=this_person(),
        action=f'ops {options.command}',
        details=_details(vars(options)),
        email_ids=given.email_ids,
        problem=given.problems[0].what if given.problems else None,
    )
    try:
        await connections.ask_postgres(adding)
    except ProblemError as error:
        if isinstance(error.__cause__, asyncpg.PostgresError):
            what = f'this is not in the audit: {error.problem.what}'
            given.problems.append(Problem(what, error.problem.remedy, level=Level.LOOK))


def _details(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was typed, in plain values."""
    return {
        name: value if isinstance(value, int | str) else _plain(value)
        for name, value in options.items()
        if name not in NOT_DETAILS and value not in (None, False, [])
    }


def _plain(value: Any) -> Any:
    return [str(part) for part in value] if isinstance(value, list) else str(value)
