"""Tell of what the doctor finds: once, again after a while, and when it is over."""

import contextlib
from collections.abc import Collection, Mapping
from functools import partial

from arq.connections import ArqRedis

from db.alerts import AlertState, read_alerts, write_alerts
from delivery.alerts.alerter import Alerter, StatesInRedis
from delivery.alerts.verdict import Notice
from reporting.checks.finding import Severity
from reporting.problems import Document, ProblemError
from reporting.servers import Servers


class StatesWhereTheyCan:
    """In PostgreSQL; while that is away, in Redis. What is there came later."""

    def __init__(self, servers: Servers, in_redis: StatesInRedis) -> None:
        self._servers = servers
        self._in_redis = in_redis

    async def read(self, subjects: Collection[str]) -> Mapping[str, AlertState]:
        """See AlertStates.read."""
        found: dict[str, AlertState] = {}
        with contextlib.suppress(ProblemError):
            found |= await self._servers.ask_postgres(partial(read_alerts, subjects=subjects))
        return {**found, **await self._in_redis.read(subjects)}

    async def write(self, states: Collection[AlertState]) -> None:
        """See AlertStates.write."""
        try:
            await self._servers.ask_postgres(partial(write_alerts, states=states))
        except ProblemError:
            await self._in_redis.write(states)
        else:
            await self._in_redis.forget([state.subject for state in states])


async def alert_of_findings(servers: Servers, alerter: Alerter, examined: Document) -> list[Notice]:
    """Tell which checks find errors now, and which no more.

    Args:
        examined: Of reporting.doctor.examine.
    Returns:
        What was told.
    """
    wrong: dict[str, str | None] = dict.fromkeys(map(finding_subject, examined['checks']))
    for row in examined['findings']:
        if row['severity'] == Severity.ERROR:
            subject = finding_subject(row['check'])
            wrong[subject] = '; '.join(filter(None, (wrong[subject], row['what'])))
    in_redis = await servers.ask_redis(_states_of)
    return await alerter.observe(StatesWhereTheyCan(servers, in_redis), wrong, at_once=True)


def finding_subject(check: str) -> str:
    """Return what stands for a check of the doctor's."""
    return f'doctor: {check}'


async def _states_of(redis: ArqRedis) -> StatesInRedis:
    return StatesInRedis(redis)
