"""Doctor's check of Celery: whether one still runs, and what it left in Redis.

No remedy here deletes anything: it may be mail.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from redis.exceptions import ResponseError

from db.adoption.phases import AdoptionPhase, read_phase
from engine.queues import QUEUES
from ops.celery.broker import SET_ASIDE_KEY, Fate, look_through
from ops.celery.connect import Broker, open_broker
from ops.celery.kept import Kept, find_kept, remembered_tasks
from ops.celery.keys import Client, Containers, find_containers
from ops.celery.signs import Signs, signs_of_celery
from ops.celery.tally import options_for
from ops.connect import Connections
from reporting.checks.finding import Finding, error, note, warning
from reporting.problems import USAGE, ProblemError
from reporting.wording import counted

TAKES_OVER = (
    '`python -m ops import-celery` takes them over; --dry-run first says what becomes of them'
)


async def check(connections: Connections) -> list[Finding]:
    """Look where Celery's broker is, or was."""
    try:
        phase = await connections.ask_postgres(read_phase)
    except ProblemError:  # another check says so
        phase = None
    try:
        async with open_broker(connections.settings, None) as broker:
            try:
                return [*await _look(broker, phase)]
            except ResponseError:
                return [
                    note(
                        'this user of Redis may not look for what Celery left',
                        'run doctor as its administrator',
                    )
                ]
    except ProblemError as failure:
        if failure.problem.exit_status == USAGE:  # it never was a Redis
            return [note(failure.problem.what, failure.problem.remedy)]
        raise


async def _look(broker: Broker, phase: AdoptionPhase | None) -> Iterator[Finding]:
    containers, kept = await find_containers(broker.redis), await find_kept(broker.redis)
    signs = await signs_of_celery(broker.redis, containers=containers)
    unknown = await unknown_tasks(broker.redis, containers)
    return judge_celery(containers, signs, kept, phase, unknown, is_ours=broker.is_ours)


async def unknown_tasks(redis: Client, containers: Containers) -> list[str]:
    """Return the tasks that nobody here knows, by what is next in each list.

    Those that may be about e-mails come first.
    """
    tasks = await remembered_tasks(redis)
    names: Counter[str] = Counter()
    may_mean: Counter[str] = Counter()
    for container in containers.all:
        async for batch in look_through(redis, container):
            for entry in batch:
                message = entry.read(tasks)
                if message.task and message.meaning is None:
                    names[message.task] += 1
                    may_mean[message.task] += message.may_mean is not None
            break
    return sorted(names, key=lambda name: (-may_mean[name], -names[name]))


def _while_it_runs(signs: Signs, phase: AdoptionPhase | None) -> Finding:
    if phase is AdoptionPhase.SHARED:
        beside = f'Celery runs beside this system: {signs.in_words}'
        return note(beside, 'docs/migration.md says how to go on')
    seems = f'Celery seems to run: {signs.in_words}'
    return warning(seems, 'stop it: what both work on may be sent twice')


def judge_celery(
    containers: Containers,
    signs: Signs,
    kept: Sequence[Kept],
    phase: AdoptionPhase | None,
    unknown: Sequence[str] = (),
    *,
    is_ours: bool,
) -> Iterator[Finding]:
    """Judge what is there.

    Args:
        phase: How far the adoption of the table has come.
        unknown: Tasks that wait and whose meaning nobody has given.
        is_ours: Our own queues are in the same database.
    """
    takes_over = (
        f'{TAKES_OVER}; of tasks it does not know, {options_for(unknown)}'
        if unknown
        else TAKES_OVER
    )
    for container in containers.lists:
        if is_ours and container.name in QUEUES:
            of = counted(container.length, 'message', 'messages')
            holds = f'the list {container.name} holds {of} of Celery'
            yield error(f'{holds}: our queue of that name cannot be used', takes_over)
    if signs.is_running:
        yield _while_it_runs(signs, phase)
    elif containers.messages:
        waiting = counted(containers.messages, 'message of Celery waits', 'messages of Celery wait')
        where = ', '.join(
            f'{container.name} ({container.length})' for container in containers.all[:5]
        )
        yield warning(f'{waiting} in {where}', takes_over)
    if aside := sum(k.container.length for k in kept if k.fate is Fate.SET_ASIDE):
        are = counted(aside, 'message of Celery is', 'messages of Celery are')
        remedy = (
            '`python -m ops import-celery --task NAME=MEANING` after --undo, '
            'or see what they were about'
        )
        yield note(f'{are} set aside in {SET_ASIDE_KEY}:*', remedy)
