"""What ROUTES says: which mail goes by which relays, the first that matches first."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from configuration.lists import read_entries
from mail.route_table import Route
from mail_outbox.envelope import InvalidEmailError, ascii_address

EXAMPLE = '[{"name": "bulk", "email_type": "newsletter", "relays": ["eu", "us"]}]'
MOST_VALUES = 1000
LARGEST_WEIGHT = 1000.0


def _read_values(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_place(place: Any) -> dict[str, float]:
    weights = {place: 1.0} if isinstance(place, str) else place
    if not isinstance(weights, dict) or not weights:
        raise ValueError('each place is the name of a relay, or names with weights: {"eu": 3}')
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f'the weight of {name[:63]!r} must be a number')  # noqa: TRY004
        if not 0 < weight <= LARGEST_WEIGHT:
            raise ValueError(f'the weight of {name[:63]!r} must be above 0, at most 1000')
    return {str(name): float(weight) for name, weight in weights.items()}


def _read_chain(value: Any) -> Any:
    """Read `["eu", {"us": 3, "asia": 1}]`, and `"eu"` alone."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('must be a list of relays: ["eu", {"us": 3, "asia": 1}]')
    chain = tuple(_check_place(place) for place in value)
    names = [name for place in chain for name in place]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f'{twice[0][:63]} stands there twice')
    return chain


Values = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=500)], ...],
    BeforeValidator(_read_values),
    Field(max_length=MOST_VALUES),
]


class RouteEntry(BaseModel):
    """One route: conditions, each a value or a list of them, and where mail that meets all goes."""

    model_config = ConfigDict(
        extra='forbid', frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    name: str = Field(pattern=r'^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$')
    email_type: Values = ()
    sender_domain: Values = ()
    recipient_domain: Values = ()
    organization: Values = ()
    relays: Annotated[tuple[dict[str, float], ...], BeforeValidator(_read_chain)]

    @field_validator('email_type', 'sender_domain', 'recipient_domain', 'organization')
    @classmethod
    def _check_given(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values:  # no condition is no key: an empty list may be a mistake of whoever wrote it
            raise ValueError('must name something; without the key it does not matter')
        return values

    @field_validator('sender_domain', 'recipient_domain')
    @classmethod
    def _check_domains(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(ascii_domain, values))

    @model_validator(mode='after')
    def _check_name(self) -> Self:
        if self.name == 'default' and self.conditions:
            raise ValueError('name: default is the route without conditions')
        return self

    @property
    def conditions(self) -> tuple[str, ...]:
        """What must be so, all in one."""
        return self.email_type + self.sender_domain + self.recipient_domain + self.organization

    def route(self) -> Route:
        """Return it as mail.route_table wants it."""
        return Route(
            self.name,
            frozenset(self.email_type),
            frozenset(self.sender_domain),
            frozenset(self.recipient_domain),
            frozenset(self.organization),
            self.relays,
        )


def ascii_domain(domain: str) -> str:
    """Return a domain in its ASCII form, with `*.` in front as it was."""
    below = '*.' if domain.startswith('*.') else ''
    try:
        name = ascii_address(f'anybody@{domain.removeprefix("*.")}').rpartition('@')[2]
    except InvalidEmailError:
        raise ValueError(
            f'{domain[:80]!r} is no domain: example.com, or *.example.com for all below it'
        ) from None
    return below + name.lower()


def read_route_list(value: Any) -> Any:
    """Read the list; see configuration.lists.read_entries."""
    return read_entries(value, RouteEntry, EXAMPLE)


def check_routes(routes: Sequence[RouteEntry], relays: Sequence[str]) -> None:
    """Refuse routes to relays that nobody knows, and those that no e-mail ever reaches.

    Raises:
        ValueError: it names the entry, and what is wrong.
    """
    names: set[str] = set()
    for number, route in enumerate(routes, start=1):
        where = f'ROUTES: entry {number} ({route.name})'
        if route.name in names:
            raise ValueError(f'{where}: more than one route has this name')
        names.add(route.name)
        for name in (name for place in route.relays for name in place):
            if name not in relays:
                known = ', '.join(relays)
                raise ValueError(f'{where}: no relay is named {name[:63]}; there are {known}')
        if not route.conditions and number < len(routes):
            raise ValueError(f'{where}: it takes all mail, so it must be the last')
