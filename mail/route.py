"""The relays of an installation, and which of them to ask for which e-mail."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mail.domains import FURTHEST_S, DomainBoard, DomainLimit
from mail.relay.pool import Relay
from mail.route_table import DEFAULT, Route, RouteTable, SmoothWeights, Traits
from mail.signing.dkim import Signing
from mail_outbox.address_fields import Sender

# Only for those who would have come back by themselves: resuming a relay wakes the sweep.
PAUSED_WAIT_S = 30.0
DRAIN_EVERY_S = 0.5
PATIENCE_S = 1.0  # so long an e-mail of a route waits for its slot under its claim


class LoadedRelays(NamedTuple):
    """What settings say, as they were read last.

    Attributes:
        drain_s: How long an e-mail on an old connection may take at most.
    """

    relays: Sequence[Relay]
    table: RouteTable
    limits: Sequence[DomainLimit]
    sender: Sender
    drain_s: float
    signing: Signing | None = None  # None: no DKIM


class Relays:
    """Relays, in the order of preference."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = tuple(relays)
        self.domains = DomainBoard()

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    def available(self) -> list[Relay]:
        """Return the relays that can be used now, the one where it goes soonest first.

        Among relays where it goes at once, the preferred one is first.
        """
        return soonest_first([r for r in self._relays if r.unavailable_for_s() == 0])

    def in_turn(self) -> list[Relay]:
        """Return the same for an e-mail that takes its turn now."""
        return self.available()

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay can be used now, else how long none can."""
        return min(relay.unavailable_for_s() for relay in self._relays)

    def away_for_s(self) -> float:
        """Return 0 when an e-mail of some route has a relay now, else how long none has."""
        return self.unavailable_for_s()

    def split(
        self,
        traits: Traits,  # noqa: ARG002 - without routes it does not matter
        recipients: tuple[str, ...],
    ) -> list[tuple['Relays', tuple[str, ...]]]:
        """Return which relays an e-mail's recipients may be reached by."""
        return [(self, recipients)]

    @property
    def has_routes(self) -> bool:
        """Whether it matters what an e-mail is."""
        return False

    def types_away(self) -> Mapping[str, float]:
        """Return the types whose e-mails have no relay now, each with how long they have none."""
        return {}

    def comes_back_in_s(self) -> float:
        """Return 0 when an e-mail may wait for its slot here, else when it is to come back."""
        return 0.0

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


def soonest_first(usable: list[Relay]) -> list[Relay]:
    """Sort relays by when an e-mail would go; those where it goes at once stay as they are."""
    if len(usable) > 1:
        usable.sort(key=Relay.slot_in_s)
    return usable


class SwitchableRelays(Relays):
    """Relays whose set may change between two e-mails; one that has begun keeps its own.

    Attributes:
        paused: By their names.
        table: The routes.
    """

    def __init__(self, relays: Sequence[Relay], table: RouteTable | None = None) -> None:
        super().__init__(relays)
        self.paused: frozenset[str] = frozenset()
        self._draining: set[asyncio.Task[None]] = set()
        self._take_routes(table or RouteTable())

    def _take_routes(self, table: RouteTable) -> None:
        self.table = table
        by_name = {relay.name: relay for relay in self}
        self._along = {route.name: RouteRelays(route, by_name, self) for route in table.routes}
        rest = Route(DEFAULT, chain=tuple({name: 1.0} for name in by_name))
        self._default = RouteRelays(rest, by_name, self) if table else self

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

    def away_for_s(self) -> float:
        """Return 0 when an e-mail of some route has a relay now, else how long none has."""
        waits_s = [relays.unavailable_for_s() for relays in self._along.values()]
        if not self.table.takes_all:
            waits_s.append(self.unavailable_for_s())
        return min(waits_s)

    @property
    def has_routes(self) -> bool:
        """Whether it matters what an e-mail is."""
        return bool(self.table)

    def split(
        self, traits: Traits, recipients: tuple[str, ...]
    ) -> list[tuple[Relays, tuple[str, ...]]]:
        """Return which relays an e-mail's recipients may be reached by."""
        if not self.table:
            return [(self, recipients)]
        return [(self.along(route), those) for route, those in self.table.split(traits, recipients)]

    def along(self, route: Route | None) -> Relays:
        """Return the relays of a route; all of them for None."""
        return self._default if route is None else self._along[route.name]

    def types_away(self) -> Mapping[str, float]:
        """Return the types whose e-mails have no relay now, each with how long they have none.

        Claims pass over them: an e-mail that waits for its relay holds no claim.
        """
        if not self.table.email_types:
            return {}
        waits_s = {name: relays.unavailable_for_s() for name, relays in self._along.items()}
        if not any(waits_s.values()):
            return {}
        default_s, found = self.unavailable_for_s(), {}
        for email_type in self.table.email_types:
            wait_s = min(
                default_s if route is None else waits_s[route.name]
                for route in self.table.routes_of_type(email_type)
            )
            if wait_s:
                found[email_type] = wait_s
        return found

    def replace(self, relays: Sequence[Relay], table: RouteTable, drain_s: float) -> list[str]:
        """Use these relays and routes from the next e-mail on.

        A relay that is the same as before keeps its connections, and what it has taught; the
        connections of the others are closed as they come free.

        Args:
            drain_s: How long an e-mail on an old connection may take at most.
        Returns:
            The names of the relays that are new or changed.
        """
        known = {relay.options.made_from: relay for relay in self if relay.options.made_from}
        fresh = [known.get(relay.options.made_from, relay) for relay in relays]
        gone = [relay for relay in self if relay not in fresh]
        changed = [relay.name for relay in fresh if relay not in self._relays]
        self._relays = tuple(fresh)
        self._take_routes(table)
        if gone:
            draining = asyncio.get_running_loop().create_task(_drain(gone, drain_s))
            self._draining.add(draining)
            draining.add_done_callback(self._draining.discard)
        return changed


class RouteRelays(Relays):
    """The relays of one route: a chain of places, shared by weight where a place has several."""

    def __init__(self, route: Route, relays: Mapping[str, Relay], of: SwitchableRelays) -> None:
        super().__init__([relays[name] for name in route.relays])
        self._of, self.domains = of, of.domains
        self._given_until = 0.0  # times that were given to e-mails which come back
        self._places = [
            ({name: relays[name] for name in place}, SmoothWeights(place)) for place in route.chain
        ]

    def _is_usable(self, relay: Relay) -> bool:
        return relay.name not in self._of.paused and relay.unavailable_for_s() == 0

    def _ordered(self, *, take: bool) -> list[Relay]:
        found: list[Relay] = []
        for place, weights in self._places:
            usable = [name for name, relay in place.items() if self._is_usable(relay)]
            # Whoever is behind the first place is asked only when that fails: no turn is taken.
            takes = take and not found
            found += [place[name] for name in weights.order(usable, take=takes)]
        return soonest_first(found)

    def available(self) -> list[Relay]:
        """Return the route's relays that can be used now, in the order to be asked."""
        return self._ordered(take=False)

    def in_turn(self) -> list[Relay]:
        """Return the same for an e-mail that takes its turn now."""
        return self._ordered(take=True)

    def comes_back_in_s(self) -> float:
        """Return 0 when an e-mail may wait for its slot here, else when it is to come back.

        Each gets a time of its own. Else mail of a slow route would take the slots of all others.
        """
        usable = [relay for relay in self if self._is_usable(relay)]
        slot_s = min((relay.slot_in_s() for relay in usable), default=0.0)
        if slot_s <= PATIENCE_S:
            return 0.0
        now = time.monotonic()
        between_s = 1.0 / sum(relay.rate.soon_per_s for relay in usable)
        # Of an operator's limit this worker may soon have a larger part.
        is_learned = all(relay.rate.is_learned for relay in usable)
        at = max(self._given_until, now + (slot_s if is_learned else PATIENCE_S)) + between_s
        self._given_until = min(at, now + FURTHEST_S)
        for relay in usable:
            relay.rate.queued(min(1000, int((at - now) * relay.rate.soon_per_s)))
        return self._given_until - now

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay of the route can be used now, else how long none can."""
        paused = self._of.paused
        return min(
            (relay.unavailable_for_s() for relay in self if relay.name not in paused),
            default=PAUSED_WAIT_S,
        )


async def _drain(relays: Sequence[Relay], drain_s: float) -> None:
    ends_at = asyncio.get_running_loop().time() + drain_s
    while asyncio.get_running_loop().time() < ends_at:
        for relay in relays:
            relay.close_idle(older_than_s=0)
        await asyncio.sleep(DRAIN_EVERY_S)
