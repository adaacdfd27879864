"""What DOMAIN_LIMITS says: recipient domains that get no more than so much."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from configuration.lists import read_entries
from configuration.route_list import Values, ascii_domain
from mail.domains import DomainLimit

EXAMPLE = '[{"domain": ["gmail.com", "googlemail.com"], "max_per_s": 5}]'


class DomainEntry(BaseModel):
    """One limit: of a domain, or of several together, which have the same servers."""

    model_config = ConfigDict(
        extra='forbid', frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    domain: Values
    max_per_s: float | None = Field(default=None, gt=0, le=1_000_000)
    max_connections: int | None = Field(default=None, ge=1, le=1000)

    @field_validator('domain')
    @classmethod
    def _check_domains(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values:
            raise ValueError('must name a domain')
        return tuple(map(ascii_domain, values))

    @model_validator(mode='after')
    def _check_limits(self) -> Self:
        if self.max_per_s is None and self.max_connections is None:
            raise ValueError('needs max_per_s, max_connections, or both')
        return self

    def limit(self) -> DomainLimit:
        """Return it as mail.domains wants it."""
        return DomainLimit(
            self.domain[0], frozenset(self.domain), self.max_per_s or 0.0, self.max_connections or 0
        )


def read_domain_list(value: Any) -> Any:
    """Read the list; see configuration.lists.read_entries."""
    return read_entries(value, DomainEntry, EXAMPLE)


def check_domain_limits(entries: Sequence[DomainEntry]) -> None:
    """Refuse a domain that stands in two entries.

    Raises:
        ValueError: it names the entry and the domain.
    """
    seen: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        for domain in entry.domain:
            if domain in seen:
                raise ValueError(f'DOMAIN_LIMITS: entry {number}: {domain} stands in two of them')
            seen.add(domain)
