"""The installations that are moved over: what differs between them, and what is done with each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tests.rehearsal.stage import Stage

Story = Callable[['Stage'], Awaitable[None]]


@dataclass(frozen=True)
class Variant:
    """One installation and its way.

    Attributes:
        celery: Settings of Celery.
        status: The column's type: a native enum in values or in names, varchar, varchar with a
            CHECK.
        columns: All that people have, or only those that the worker cannot do without.
        ending: The signal that ends the Celery workers.
        own_broker: Celery has a database of Redis for itself.
    """

    name: str
    story: Story
    celery: dict[str, Any] = field(default_factory=dict)
    status: Literal['enum', 'ENUM', 'varchar', 'check'] = 'enum'
    timestamp: Literal['timestamp', 'timestamptz'] = 'timestamp'
    columns: Literal['all', 'few'] = 'all'
    id_type: Literal['serial', 'bigserial'] = 'serial'
    ending: Literal['TERM', 'KILL'] = 'TERM'
    own_broker: bool = False
    writes_sending: bool = False
    priorities: tuple[int, ...] = ()
    retry_delay_s: float = 20.0

    @property
    def slug(self) -> str:
        """The name as a part of file names, addresses and database names."""
        return ''.join(c if c.isalnum() else '_' for c in self.name)
