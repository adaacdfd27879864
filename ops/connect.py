"""The servers that the settings name, for the commands."""

from ops.progress import ProgressLine, StepProgress
from reporting.servers import ServerAddresses, Servers
from settings import Settings


class Connections(Servers):
    """The servers, with the settings of the installation that they belong to."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(addresses_of(settings))
        self.settings = settings
        self.progress: ProgressLine = ProgressLine()
        self.steps = StepProgress()


def addresses_of(settings: Settings) -> ServerAddresses:
    """Return where the servers of these settings are."""
    return ServerAddresses(
        postgres_dsn=settings.postgres_dsn,
        redis_url=settings.arq_redis_url.get_secret_value(),
        mongodb_url=settings.mongodb_dsn,
        mongodb_database=settings.mongodb_database,
        naive_timezone=settings.db_naive_timezone,
        postgres_connect_timeout_s=settings.db_connect_timeout_s,
        postgres_command_timeout_s=settings.db_command_timeout_s,
        mongodb_timeout_s=settings.mongodb_timeout_s,
        is_dsn_given=settings.database_url is not None,
    )
