"""What is wrong with workers, queues and relays, as reporting.judge reports it.

A worker's record may hold anything, so its parts are read with care.
"""

from collections.abc import Iterator, Sequence

from db.identity import are_mixed
from fleet.queued_jobs import wrong_key_hint
from logs import hide_addresses
from reporting.blockers import SAFETY
from reporting.judge_ingresses import judge_ingresses
from reporting.kinds import found
from reporting.problems import NOBODY_REPLIED, Document, Problem, is_alive, queue_problems
from reporting.route_states import READY, route_states
from reporting.wording import because, counted, length

LAG_IS_LONG_MS = 500.0


def judge_fleet(fleet: Document) -> list[Problem]:
    """Judge workers, queues and SMTP ingresses.

    Args:
        fleet: see reporting.overview.read_fleet.
    """
    ingresses = [*judge_ingresses(fleet['ingresses'])]
    if not has_own_worker(fleet):
        foreign = judge_foreign(fleet['workers'])
        return [NOBODY_REPLIED, *broken_queues(fleet), *foreign, *ingresses]
    workers = judge_workers(fleet['workers'])
    return [*queue_problems(fleet), *broken_queues(fleet), *workers, *ingresses]


def has_own_worker(fleet: Document) -> bool:
    """Whether anybody works for us; workers of another application send nothing of ours."""
    workers = fleet['workers']
    return is_alive(fleet) and not (workers and all(worker.get('foreign') for worker in workers))


def broken_queues(fleet: Document) -> list[Problem]:
    """Name keys that stand in a queue's place."""
    problems = [queue['problem'] for queue in fleet['queues'] if queue.get('problem')]
    return [found('broken_queue', problem, wrong_key_hint(problem)) for problem in problems]


def judge_workers(workers: Sequence[Document]) -> Iterator[Problem]:
    """Judge what workers tell of themselves, and whether they are of one mind."""
    yield from judge_foreign(workers)
    ours = [worker for worker in workers if not worker.get('foreign')]
    for kind, part in (('different_settings', 'settings'), ('different_versions', 'version')):
        reported: dict[str, list[str]] = {}
        for worker in ours:
            if value := worker[part]:
                reported.setdefault(value, []).append(worker['worker'])
        if len(reported) > 1:
            groups = '; '.join(
                f'{value}: {", ".join(names[:3])}' for value, names in sorted(reported.items())
            )
            yield found(
                kind, f'workers run with {len(reported)} different {kind.split("_")[1]} ({groups})'
            )
    for worker in ours:
        if worker['loop_lag_ms'] > LAG_IS_LONG_MS:
            late = length(worker['loop_lag_ms'] / 1000)
            yield found(
                'hanging_worker', f'{worker["worker"]} hangs: its event loop was late by {late}'
            )
        if worker['loop_holds']:
            where, ids = (
                worker['last_hold'].get('where', ''),
                worker['last_hold'].get('email_ids', []),
            )
            yield found(
                'held_loop',
                f'{worker["worker"]} stood still for more than a second, '
                f'{worker["loop_holds"]} times since its start; '
                f'the last time in {where!r:.100} for the e-mails {ids!r:.100}',
            )
        if worker['log_lines_dropped']:
            lines = counted(worker['log_lines_dropped'], 'line')
            yield found(
                'lost_log_lines',
                f'{worker["worker"]} dropped {lines} of its log: nobody read it in time',
            )
    yield from _judge_safety(ours)
    yield from _judge_pauses(ours)
    yield from judge_relays(ours)
    yield from _judge_routes(ours)


def judge_foreign(workers: Sequence[Document]) -> Iterator[Problem]:
    """Name workers of another application, as reporting.overview.mark_foreign marks them."""
    if foreign := [worker['worker'] for worker in workers if worker.get('foreign')]:
        yield found(
            'foreign_worker',
            f'{_names(foreign)} of another PostgreSQL database here: each takes jobs of the other',
        )
    elif are_mixed(worker['database'] for worker in workers):
        yield found(
            'foreign_worker',
            'the workers here serve different PostgreSQL databases: each takes jobs of the other',
        )


def _names(names: Sequence[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return f'{counted(len(names), "worker")} ({", ".join(names[:3])}{more})'


def _judge_safety(workers: Sequence[Document]) -> Iterator[Problem]:
    for switch, effect in SAFETY.items():
        if named := [w['worker'] for w in workers if switch in w['safety']]:
            yield found('safety_switch', f'{switch} is on: {effect} ({_names(named)})')


def _judge_pauses(workers: Sequence[Document]) -> Iterator[Problem]:
    paused = [worker for worker in workers if worker['state'] == 'paused']
    why = '; '.join(dict.fromkeys(reason for worker in paused for reason in worker['paused']))
    if paused and len(paused) == len(workers):
        yield found('all_paused', f'every worker is paused: {why}')
    elif paused:
        yield found(
            'paused_worker',
            f'{_names([worker["worker"] for worker in paused])} of {len(workers)} paused: {why}',
        )


def _judge_routes(workers: Sequence[Document]) -> Iterator[Problem]:
    if not any(r.get('state') == READY for worker in workers for r in worker['relays']):
        return  # judge_relays says so
    for name, relays in route_states(workers).items():
        if not any(relays.values()):
            yield found('no_route', f'the route {name}: none of {", ".join(relays)} can be used')


def judge_relays(workers: Sequence[Document]) -> Iterator[Problem]:
    """Name relays that no worker can use now, and say when none is left."""
    states: dict[str, list[Document]] = {}
    for worker in workers:
        for relay in worker['relays']:
            if isinstance(relay.get('name'), str) and isinstance(relay.get('state'), str):
                states.setdefault(relay['name'], []).append(relay)
    cooling = {
        name: reported
        for name, reported in states.items()
        if all(relay['state'] == 'cooling down' for relay in reported)
    }
    if states and all(
        relay['state'] != 'ready' for reported in states.values() for relay in reported
    ):
        why = ', '.join(f'{name} is {reported[0]["state"]}' for name, reported in states.items())
        yield found('no_relay', f'no relay can be used: {why}')
    for name, reported in cooling.items():
        error = next(
            (relay['last_error'] for relay in reported if isinstance(relay.get('last_error'), str)),
            None,
        )
        yield found('relay_cooling', f'the relay {name} cools down{because(hide_addresses(error))}')
