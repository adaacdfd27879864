"""The workers and the queues: whether somebody is there, for every queue, and all are ours and of one mind."""

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError as RedisNoPermissionError

from db.identity import read_identity
from ops.answer import Document, TroubleError
from ops.checks.finding import Finding, from_judge, note
from ops.connect import Connections
from ops.live import read_fleet, read_living
from reporting.judge import in_order, judge_fleet, judge_workers
from reporting.overview import as_documents, mark_foreign
from reporting.problems import NOBODY_REPLIED, is_alive, queue_troubles


async def check(connections: Connections) -> list[Finding]:
    """Read the registry and the queues, and have the judge look at them."""
    workers = as_documents(await connections.ask_redis(read_living))
    try:
        database = await connections.ask_postgres(read_identity)
    except TroubleError:  # another check tells of it
        database = None
    mark_foreign(workers, database)
    try:
        fleet = await connections.ask_redis(_read_fleet)
    except NoPermissionError as forbidden:
        remedy = "use the operators' user of deploy/redis-users.acl"
        nobody = [] if workers else [NOBODY_REPLIED]
        return [
            note(f'the queues cannot be looked at: {forbidden}', remedy),
            *map(from_judge, in_order([*nobody, *judge_workers(workers)])),
        ]
    mark_foreign(fleet['workers'], database)
    unserved = [] if is_alive(fleet) else queue_troubles(fleet)
    return [from_judge(trouble) for trouble in in_order([*judge_fleet(fleet), *unserved])]


async def _read_fleet(redis: ArqRedis) -> Document:
    try:
        return await read_fleet(redis)
    except RedisNoPermissionError as error:
        raise NoPermissionError(str(error)) from error


class NoPermissionError(Exception):
    """The user in ARQ_REDIS_URL may not look at the queues; a worker's need not."""
