"""PostgreSQL and Redis for the API."""

from reporting.servers import ServerAddresses
from reporting.within_deadline import DeadlineServers

DEADLINE_S = 5.0
# Queueing has connections of its own: a list that takes seconds holds up no e-mail.
QUEUEING_CONNECTIONS, OTHER_CONNECTIONS = 6, 4


class ApiServers(DeadlineServers):
    """Servers that are waited for within a deadline."""

    def __init__(
        self,
        addresses: ServerAddresses,
        deadline_s: float = DEADLINE_S,
        *,
        connections: int = OTHER_CONNECTIONS,
    ) -> None:
        super().__init__(addresses, deadline_s, pool_size=connections, application_name='email-api')
