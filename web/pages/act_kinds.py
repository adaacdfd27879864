"""What one of the actions is: what is asked for, and a row of their table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from reporting.problems import Problem
from reporting.servers import Servers
from web.auth.people import Role


@dataclass(frozen=True, slots=True)
class ActRequest:
    """What is asked for: about what, by whom and why; dry_run: only say what would happen."""

    servers: Servers
    name: str
    kind: str
    by: str
    reason: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ActKind:
    """One row of the table.

    Attributes:
        title: With {name}, {kind} and {of_type} in it; effect: what follows.
        do: Does it, or says what it would do; returns lines, and what went wrong.
        goes_to: The page it belongs to.
    """

    role: Role
    title: str
    effect: str
    button: str
    audit: str
    do: Callable[[ActRequest], Awaitable[tuple[list[str], list[Problem]]]]
    goes_to: str
    wants_reason: bool = False
