"""The workers and the queues: somebody serves every queue, and all workers are ours and alike."""

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError as RedisNoPermissionError

from db.identity import read_identity
from reporting.checks.finding import Finding, from_judge, note
from reporting.judge import in_order
from reporting.judge_fleet import judge_fleet, judge_workers
from reporting.live import read_fleet_now, read_living
from reporting.overview import as_documents, mark_foreign
from reporting.problems import NOBODY_REPLIED, Document, ProblemError, is_alive, queue_problems
from reporting.servers import Servers


async def check(servers: Servers) -> list[Finding]:
    """Read the registry and the queues, and have the judge look at them."""
    workers = as_documents(await servers.ask_redis(read_living))
    try:
        database = await servers.ask_postgres(read_identity)
    except ProblemError:  # another check tells of it
        database = None
    mark_foreign(workers, database)
    try:
        fleet = await servers.ask_redis(_read_fleet)
    except NoPermissionError as forbidden:
        remedy = "use the operators' user of deploy/redis-users.acl"
        nobody = [] if workers else [NOBODY_REPLIED]
        return [
            note(f'the queues cannot be looked at: {forbidden}', remedy),
            *map(from_judge, in_order([*nobody, *judge_workers(workers)])),
        ]
    mark_foreign(fleet['workers'], database)
    unserved = [] if is_alive(fleet) else queue_problems(fleet)
    return [from_judge(problem) for problem in in_order([*judge_fleet(fleet), *unserved])]


async def _read_fleet(redis: ArqRedis) -> Document:
    try:
        return await read_fleet_now(redis)
    except RedisNoPermissionError as error:
        raise NoPermissionError(str(error)) from error


class NoPermissionError(Exception):
    """The user in ARQ_REDIS_URL may not look at the queues; a worker's need not."""
