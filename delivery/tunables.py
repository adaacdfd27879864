"""What operators may change while a worker runs; fleet/controls.py is the one that changes it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from db.switches import Switch, SwitchKind
from mail.relay.rate_limit import RateLimit
from mail.route import Relays
from mail.signing.dkim import Signing
from mail_outbox.address_fields import Sender


class Switches:
    """What this worker leaves alone: the operators' switches in PostgreSQL, and its own pause.

    They are kept in the forms that the hot path asks for, since they change only when an operator
    says so.
    """

    def __init__(self, queue_name: str = '') -> None:
        self.queue_name = queue_name
        self.paused_here = False  # this worker only, until it ends
        self.claims_paused = False  # claim neither jobs nor e-mails
        self.email_types: list[str] = []
        self.relays: frozenset[str] = frozenset()
        self.duties: frozenset[str] = frozenset()
        self._stored: tuple[Switch, ...] = ()

    def update(self, stored: Iterable[Switch]) -> bool:
        """Take over what PostgreSQL says. Returns whether anything changed."""
        stored = tuple(stored)
        if stored == self._stored:
            return False
        self._stored = stored
        self.email_types = sorted(self._names(SwitchKind.EMAIL_TYPE))
        self.relays = self._names(SwitchKind.RELAY)
        self.duties = self._names(SwitchKind.CRON)
        self._judge()
        return True

    def pause_here(self, *, paused: bool) -> None:
        """Pause or resume this worker alone."""
        self.paused_here = paused
        self._judge()

    def reasons(self) -> list[str]:
        """Say why nothing is claimed; empty when this worker works."""
        own = ['paused by `ops control pause`'] if self.paused_here else []
        queue = next(
            (s for s in self._stored if s.kind is SwitchKind.QUEUE and s.name == self.queue_name),
            None,
        )
        return own + ([f'queue {queue.name} is paused by {queue.paused_by}'] if queue else [])

    def _names(self, kind: SwitchKind) -> frozenset[str]:
        return frozenset(switch.name for switch in self._stored if switch.kind is kind)

    def _judge(self) -> None:
        self.claims_paused = self.paused_here or self.queue_name in self._names(SwitchKind.QUEUE)


@dataclass(slots=True)
class Tunables:
    """The relays, the limits and the switches as they are now."""

    relays: Relays
    sender: Sender
    max_emails: int  # under way at once, by jobs and again by sweeps
    rate: RateLimit = field(default_factory=RateLimit)
    switches: Switches = field(default_factory=Switches)
    signing: Signing | None = None  # None: no DKIM
