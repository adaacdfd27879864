"""What this worker leaves alone: the operators' switches, as PostgreSQL last told them, and its own pause."""

from collections.abc import Iterable

from db.switches import Kind, Switch


class Switches:
    """The switches in the forms the hot path asks for; they change only when an operator says so."""

    def __init__(self, queue_name: str = '') -> None:
        self.queue_name = queue_name
        self.paused_here = False  # this worker only, until it ends
        self.claims_paused = False  # claim neither jobs nor e-mails
        self.email_types: list[str] = []
        self.relays: frozenset[str] = frozenset()
        self.duties: frozenset[str] = frozenset()
        self._told: tuple[Switch, ...] = ()

    def update(self, told: Iterable[Switch]) -> bool:
        """Take over what PostgreSQL says. Returns whether anything changed."""
        told = tuple(told)
        if told == self._told:
            return False
        self._told = told
        self.email_types = sorted(self._names(Kind.EMAIL_TYPE))
        self.relays = self._names(Kind.RELAY)
        self.duties = self._names(Kind.CRON)
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
            (s for s in self._told if s.kind is Kind.QUEUE and s.name == self.queue_name), None
        )
        return own + ([f'queue {queue.name} is paused by {queue.paused_by}'] if queue else [])

    def _names(self, kind: Kind) -> frozenset[str]:
        return frozenset(switch.name for switch in self._told if switch.kind is kind)

    def _judge(self) -> None:
        self.claims_paused = self.paused_here or self.queue_name in self._names(Kind.QUEUE)
