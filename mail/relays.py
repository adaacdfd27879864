"""The relays of an installation, and which of them to ask."""

from collections.abc import Iterator, Sequence

from mail.smtp import Relay


class Relays:
    """All relays, in the order of preference."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = tuple(relays)

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    def available(self) -> list[Relay]:
        """Return the relays that can be used now: where it goes soonest first, and among those the preferred one."""
        usable = [relay for relay in self._relays if relay.unavailable_for_s() == 0]
        if len(usable) > 1:
            usable.sort(key=Relay.turn_in_s)
        return usable

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay can be used now, else how long none can."""
        return min(relay.unavailable_for_s() for relay in self._relays)

    def send_away_waiting(self) -> None:
        """Let nobody wait for his turn at a relay that wants fewer e-mails."""
        for relay in self._relays:
            if relay.is_behind:
                relay.send_away_waiting()

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections that nobody used for a while."""
        for relay in self._relays:
            relay.close_idle(older_than_s)

    def tend(self) -> None:
        """Do for each relay what has to be done every few seconds."""
        for relay in self._relays:
            relay.tend()
