"""How far an attempt to send an e-mail has come."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mail.outcome import Outcome, Phase, Reply, Settled, classify
from mail.priority import NORMAL
from mail.route_table import NO_TRAITS, Traits


async def _forget(_: Settled) -> None:
    pass


@dataclass(slots=True)
class Progress:
    """How far an attempt has come.

    Read when it is cut off, and by operators who ask what the worker is doing.
    """

    phase: Phase = Phase.CLAIMED
    relay: str | None = None
    started_at: float = field(default_factory=time.time)  # seconds since 1970
    # Does not wait for the relay's rate: the shorter it is under way, the less it can be lost by
    # chance once more.
    urgent: bool = False
    priority: int = NORMAL  # in the relay's queue
    traits: Traits = NO_TRAITS  # what its route depends on, where there are routes
    # What is known of several recipients so far, for whoever has to record an attempt that was cut
    # off.
    recipients: Settled | None = None
    cut_off: bool = False  # its task was cancelled
    # Called just before MAIL and before the body; raises when this worker no longer holds the
    # e-mail.
    before_data: Callable[[], None] = field(default=lambda: None)
    # Called between two transactions of one e-mail: writes down `recipients`, so that nobody who
    # has it gets it again should this worker die.
    keep: Callable[[Settled], Awaitable[None]] = field(default=_forget)

    # What a relay's reply means, see mail.safety.
    classify: Callable[[Reply], Outcome] = classify

    @property
    def reached_data_end(self) -> bool:
        """Whether the relay may have the whole message while we do not know its answer."""
        return self.phase in (Phase.BODY_SENT, Phase.REPLIED)
