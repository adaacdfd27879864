"""Which relays an e-mail may use: a table of routes, the first that matches is taken.

Pure: an e-mail's traits and a recipient's domain in, a route out. mail/route.py has the relays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

DEFAULT = 'default'  # of what no route matches: all relays, in their order


class Traits(NamedTuple):
    """What routes can tell e-mails apart by, besides the recipient's domain.

    Attributes:
        sender_domain: Of From; of the envelope where a message is sent as given.
    """

    email_type: str | None = None
    sender_domain: str | None = None
    organization: str | None = None


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class Route:
    """Conditions, all of which an e-mail must meet, and where it goes then.

    Attributes:
        email_types, sender_domains, recipient_domains, organizations: One of each must be the
            e-mail's; empty for any. A domain with `*.` in front means all below it.
        chain: The relays by their names, in the order in which they are asked. Those that share a
            place have their parts by weight.
    """

    name: str
    email_types: frozenset[str] = frozenset()
    sender_domains: frozenset[str] = frozenset()
    recipient_domains: frozenset[str] = frozenset()
    organizations: frozenset[str] = frozenset()
    chain: tuple[Mapping[str, float], ...] = ()

    def matches(self, traits: Traits, recipient_domain: str) -> bool:
        """Tell whether it is the route of an e-mail to a recipient with this domain."""
        return (
            (not self.email_types or traits.email_type in self.email_types)
            and (not self.organizations or traits.organization in self.organizations)
            and is_below(traits.sender_domain, self.sender_domains)
            and is_below(recipient_domain, self.recipient_domains)
        )

    def may_match(self, email_type: str) -> bool:
        """Tell whether it is the route of any e-mail of this type."""
        return not self.email_types or email_type in self.email_types

    @property
    def asks_more_than_type(self) -> bool:
        """Whether it leaves mail of its types to routes behind it."""
        return bool(self.sender_domains or self.recipient_domains or self.organizations)

    @property
    def relays(self) -> tuple[str, ...]:
        """The names of all its relays, in the order of the chain."""
        return tuple(name for place in self.chain for name in place)

    def conditions(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each condition's key with what it asks for."""
        yield from (
            (key, sorted(values))
            for key, values in (
                ('email_type', self.email_types),
                ('sender_domain', self.sender_domains),
                ('recipient_domain', self.recipient_domains),
                ('organization', self.organizations),
            )
            if values
        )


def is_below(domain: str | None, wanted: frozenset[str]) -> bool:
    """Tell whether a domain is one of those wanted, or below one with `*.` in front."""
    if not wanted:
        return True
    if not domain:
        return False
    domain = domain.lower()
    if domain in wanted:
        return True
    while '.' in domain:
        domain = domain.partition('.')[2]
        if f'*.{domain}' in wanted:
            return True
    return False


class RouteTable:
    """Routes in their order. Without any, whoever asks need not know an e-mail's traits."""

    def __init__(self, routes: Sequence[Route] = ()) -> None:
        self.routes = tuple(routes)
        self.email_types = frozenset().union(*(route.email_types for route in self.routes))
        # Then none is left for the default.
        self.takes_all = any(not any(route.conditions()) for route in self.routes)
        self._looks_at_recipients = any(route.recipient_domains for route in self.routes)

    def __bool__(self) -> bool:
        return bool(self.routes)

    def route_of(self, traits: Traits, recipient_domain: str) -> Route | None:
        """Return the first route that matches; None for the default."""
        for route in self.routes:
            if route.matches(traits, recipient_domain):
                return route
        return None

    def split(
        self, traits: Traits, recipients: tuple[str, ...]
    ) -> list[tuple[Route | None, tuple[str, ...]]]:
        """Return the routes of an e-mail's recipients, each with those who are on it."""
        if not self._looks_at_recipients:
            return [(self.route_of(traits, ''), recipients)]
        found: dict[str | None, tuple[Route | None, list[str]]] = {}
        for recipient in recipients:
            route = self.route_of(traits, domain_of(recipient))
            key = None if route is None else route.name
            found.setdefault(key, (route, []))[1].append(recipient)
        return [(route, tuple(those)) for route, those in found.values()]

    def routes_of_type(self, email_type: str) -> list[Route | None]:
        """Return every route that an e-mail of this type may take; None for the default."""
        found: list[Route | None] = []
        for route in self.routes:
            if route.may_match(email_type):
                found.append(route)
                if not route.asks_more_than_type:
                    return found
        return [*found, None]


def domain_of(address: str) -> str:
    """Return what stands behind an address's last @, in lower case."""
    return address.rpartition('@')[2].lower()


class SmoothWeights:
    """Turns by weight, evenly spread: with 3 to 1, eu eu us eu and not eu eu eu us.

    The same choices come in the same order, so nothing is left to chance. Source: nginx, smooth
    weighted round-robin.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._credit = dict.fromkeys(weights, 0.0)

    def order(self, usable: Sequence[str], *, take: bool) -> list[str]:
        """Return the names in the order to be asked.

        Args:
            usable: Those that can be used now; the others neither gain nor lose a turn.
            take: Whether this is a turn, or only a look.
        """
        credit = {name: self._credit[name] + self._weights[name] for name in usable}
        ordered = sorted(usable, key=lambda name: -credit[name])
        if take and ordered:
            credit[ordered[0]] -= sum(self._weights[name] for name in usable)
            self._credit.update(credit)
        return ordered
