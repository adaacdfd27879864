"""What an operator chose for an import from Celery, or for the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ops.arguments import confirm
from ops.celery.messages import Meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of `ops import-celery`, read."""

    queues: Sequence[str]  # Celery's, whatever their lists hold
    key_prefix: str  # the broker's global_keyprefix, for queues
    tasks: Mapping[str, Meaning]  # meanings of tasks of other names
    database: int | None  # of the broker, where it is not the address's
    set_aside: bool  # messages of other tasks move as well
    dry_run: bool
    force: bool  # although Celery seems to run
    yes: bool

    def confirm(self, question: str) -> None:
        """Ask the operator, unless --yes was given.

        Raises:
            ProblemError: the answer is no, or there is no terminal to ask at.
        """
        confirm(question, yes=self.yes)
