"""The relays of an installation, and which of them to ask."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from mail.relay.pool import Relay

# Only for those who would have come back by themselves: resuming a relay wakes the sweep.
PAUSED_WAIT_S = 30.0
DRAIN_EVERY_S = 0.5


class Relays:
    """All relays, in the order of preference."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = tuple(relays)

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    def available(self) -> list[Relay]:
        """Return the relays that can be used now, the one where it goes soonest first.

        Among relays where it goes at once, the preferred one is first.
        """
        usable = [relay for relay in self._relays if relay.unavailable_for_s() == 0]
        if len(usable) > 1:
            usable.sort(key=Relay.slot_in_s)
        return usable

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay can be used now, else how long none can."""
        return min(relay.unavailable_for_s() for relay in self._relays)

    def send_away_waiting(self) -> None:
        """Let nobody wait for a slot at a relay that wants fewer e-mails."""
        for relay in self._relays:
            if relay.is_behind:
                relay.send_away_waiting()

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections that nobody used for a while."""
        for relay in self._relays:
            relay.close_idle(older_than_s)

    def upkeep(self) -> None:
        """Do for each relay what has to be done every few seconds."""
        for relay in self._relays:
            relay.upkeep()


class SwitchableRelays(Relays):
    """Relays whose set may change between two e-mails; one that has begun keeps its own."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        super().__init__(relays)
        self.paused: frozenset[str] = frozenset()
        self._draining: set[asyncio.Task[None]] = set()

    def pause(self, names: Iterable[str]) -> None:
        """Use no relay of these names for further e-mails; all others may be used again."""
        self.paused = frozenset(names)
        for relay in self:
            if relay.name in self.paused:
                relay.close_idle(older_than_s=0)

    def available(self) -> list[Relay]:
        """Return the relays that can be used now, the preferred one first."""
        if not self.paused:
            return super().available()
        return [relay for relay in super().available() if relay.name not in self.paused]

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay can be used now, else how long none can."""
        if not self.paused:
            return super().unavailable_for_s()
        return min(
            (r.unavailable_for_s() for r in self if r.name not in self.paused),
            default=PAUSED_WAIT_S,
        )

    def replace(self, relays: Sequence[Relay], drain_s: float) -> None:
        """Use these relays from the next e-mail on; old connections are closed as they come free.

        Args:
            drain_s: How long an e-mail on an old connection may take at most.
        """
        old, self._relays = self._relays, tuple(relays)
        draining = asyncio.get_running_loop().create_task(_drain(old, drain_s))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)


async def _drain(relays: Sequence[Relay], drain_s: float) -> None:
    ends_at = asyncio.get_running_loop().time() + drain_s
    while asyncio.get_running_loop().time() < ends_at:
        for relay in relays:
            relay.close_idle(older_than_s=0)
        await asyncio.sleep(DRAIN_EVERY_S)
