"""PostgreSQL and Redis for the API."""

from reporting.servers import ServerAddresses
from reporting.within_deadline import DeadlineServers

DEADLINE_S = 5.0
POOL_SIZE = 10


class ApiServers(DeadlineServers):
    """Servers that are waited for within a deadline."""

    def __init__(self, addresses: ServerAddresses, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(addresses, deadline_s, pool_size=POOL_SIZE, application_name='email-api')
