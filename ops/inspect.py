"""What the workers do now and next: the words of `celery inspect`."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console

from configuration.version import program_version
from configuration.view import digest
from mail.outcome import Outcome
from ops.answer import Answer
from ops.arguments import Choices, add_json, add_limit, add_workers
from ops.connect import Connections
from ops.cron import every
from ops.fleet_tables import outcomes_of, render_queues, render_workers
from ops.output import print_table
from ops.result import render_job
from reporting.inspection import READERS, Inspection, inspect_workers
from reporting.live import Audience
from reporting.problems import USAGE, Document, Problem, ProblemError
from reporting.wording import length, megabytes, percent, tried

SEE_MEMORY = (
    'see the memory of each worker in `python -m ops inspect stats`; '
    'WORKER_RECYCLE_RSS_MIB bounds it'
)
OF_NO_WORKER = {
    'scheduled': 'any worker takes mail whose time has come',
    'query_task': 'a job is found wherever it is',
}
# What Celery could say, and arq has no such thing: why, and what to use.
INSTEAD = {
    'revoked': 'jobs are not revoked, e-mails are cancelled: see `python -m ops purge outbox`, '
    'and `python -m ops show ID` for one e-mail',
    'clock': 'workers exchange no messages, so they keep no logical clock; '
    '`python -m ops doctor` compares real ones',
    'memsample': SEE_MEMORY,
    'memdump': SEE_MEMORY,
    'objgraph': 'no command runs code in a worker; '
    '`python -m ops control stacks` shows where its tasks wait',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'what', choices=Choices(READERS, INSTEAD), metavar='what', help=', '.join(READERS)
    )
    parser.add_argument('jobs', nargs='*', metavar='JOB', help='with query_task: ids of jobs')
    add_workers(parser)
    add_limit(parser, 100)
    add_json(parser)


def refuse_senseless(what: str, jobs: Sequence[str], workers: Sequence[str] | None) -> None:
    """Refuse words that have no meaning here, or not with these options.

    Raises:
        ProblemError: says what to use instead.
    """
    if what in INSTEAD:
        raise ProblemError(Problem(f'there is no {what} here', INSTEAD[what], exit_status=USAGE))
    if bool(jobs) != (what == 'query_task'):
        wrong = f'{what} takes no ids of jobs' if jobs else 'query_task needs ids of jobs'
        raise ProblemError(
            Problem(wrong, '`python -m ops inspect query_task JOB ...`', exit_status=USAGE)
        )
    if workers and what in OF_NO_WORKER:
        remedy = f'leave out --worker: {OF_NO_WORKER[what]}'
        raise ProblemError(Problem(f'{what} is of no worker', remedy, exit_status=USAGE))


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask what the word is about."""
    refuse_senseless(options.what, options.jobs, options.workers)
    asked = Inspection(
        options.what,
        Audience(options.workers, options.timeout),
        options.limit,
        options.jobs,
        {'program': program_version(), 'settings': digest(connections.settings)},
    )
    return Answer(*await inspect_workers(connections, asked))


def render(document: Document, console: Console) -> None:
    """Print the tables of the parts that are known."""
    TABLES[document['inspect']](document, console)


def _render_ping(document: Document, console: Console) -> None:
    if document['replies'] is not None:
        print_table(
            console, 'Replies', ('worker', ''), ((r['worker'], 'pong') for r in document['replies'])
        )


def _render_active(document: Document, console: Console) -> None:
    if document['emails'] is not None:
        print_table(
            console,
            'Being sent',
            ('id', 'type', 'attempt', 'since', 'worker', 'phase', 'relay', 'last relay',
             'lease ends in'),
            (
                (e['id'], e.get('email_type'), _attempt(e), _ago(e.get('claimed_s')), e['worker'],
                 e['phase'], e['relay'], e.get('last_relay'), length(e.get('lease_ends_in_s')))
                for e in document['emails']
            ),
        )  # fmt: skip
    if document['jobs']:
        _render_jobs('Other jobs that run', document['jobs'], console)


def _attempt(email: Document) -> str | None:
    return tried(email['attempt'], email['max_attempts']) if 'attempt' in email else None


def _ago(seconds: float | None) -> str | None:
    return None if seconds is None else f'{length(seconds)} ago'


def _render_reserved(document: Document, console: Console) -> None:
    _render_jobs('Reserved jobs', document['jobs'], console)


def _render_scheduled(document: Document, console: Console) -> None:
    if document['emails'] is not None:
        shown = len(document['emails'])
        print_table(
            console,
            f'Scheduled e-mails ({shown} of {document["total"]})',
            ('id', 'type', 'status', 'attempts', 'in', 'at'),
            (
                (e['id'], e['email_type'], e['status'], tried(e['attempts'], e['max_attempts']),
                 length(e['due_in_s']), e['next_retry_at'])
                for e in document['emails']
            ),
        )  # fmt: skip
    _render_jobs('Deferred jobs', document['jobs'], console)


def _render_jobs(title: str, jobs: list[Document] | None, console: Console) -> None:
    if jobs is not None:
        print_table(
            console,
            title,
            ('job', 'queue', 'function', 'e-mail', 'wanted at', 'tries', 'lock ends in', 'worker'),
            (
                (j['job_id'], j['queue'], j['function'] or j['problem'], j['email_id'],
                 j['wanted_at'], j['tries'], length(j['lock_ends_in_s']), j.get('worker'))
                for j in jobs
            ),
        )  # fmt: skip


def _render_stats(document: Document, console: Console) -> None:
    outcomes = [outcome.value for outcome in Outcome]
    if document['hour'] is not None:
        spans = [('all', document)] + [(of['worker'], of) for of in document['by_worker']]
        print_table(
            console,
            'Attempts',
            ('worker', 'last', 'attempts', *outcomes, 'success', 'failure'),
            (
                (name, span, of[span]['attempts'], *(of[span][outcome] for outcome in outcomes),
                 percent(of[span]['success_rate']), percent(of[span]['failure_rate']))
                for name, of in spans
                for span in ('hour', 'day')
            ),
        )  # fmt: skip
    if document['workers'] is not None:
        print_table(
            console,
            'Workers since their start',
            ('worker', 'up', 'attempts', 'jobs', 'e-mails/s', 'at once', 'limit', 'memory',
             'loop lag', 'version', 'settings'),
            (
                (w['worker'], length(w['uptime_s']), outcomes_of(w['outcomes']),
                 outcomes_of(w['jobs_done']), w['emails_per_s'], w['concurrency'].get('emails'),
                 _limit(w), megabytes(w['rss_bytes']), f'{w["loop_lag_ms"]:.0f} ms', w['version'],
                 w['settings'])
                for w in document['workers']
            ),
        )  # fmt: skip


def _limit(worker: Document) -> str:
    return f'{worker["rate_limit_per_s"]:g}/s' if worker['rate_limit_per_s'] else 'none'


def _render_active_queues(document: Document, console: Console) -> None:
    if document['queues'] is not None:
        print_table(
            console,
            'Queues by worker',
            ('worker', 'queue', 'state'),
            ((w['worker'], w['queue'], w['state']) for w in document['workers']),
        )
        render_queues(document, console)


def _render_registered(document: Document, console: Console) -> None:
    for names, worker in _alike(document['workers'] or (), ('functions', 'duties')):
        print_table(
            console, f'{names} run', ('function',), ((name,) for name in worker['functions'])
        )
        print_table(
            console,
            f'{names} run in time',
            ('duty', 'every', 'a missed run'),
            ((d.get('name'), every(d.get('every_s')), d.get('missed')) for d in worker['duties']),
        )


def _alike(workers: Iterable[Document], parts: Iterable[str]) -> list[tuple[str, Document]]:
    """Group workers that tell the same: their names, and what one of them tells."""
    groups: list[tuple[list[str], Document]] = []
    for worker in workers:
        reported = {part: worker[part] for part in parts}
        names = next((names for names, other in groups if other == reported), None)
        if names is None:
            groups.append(([worker['worker']], reported))
        else:
            names.append(worker['worker'])
    return [(', '.join(names), reported) for names, reported in groups]


def _render_conf(document: Document, console: Console) -> None:
    """Print each configuration once, with the workers that have it; what differs first."""
    replies = document['replies'] or ()
    variables = list(
        dict.fromkeys(
            name for reply in replies for name in reply if name not in ('worker', 'WORKER_NAME')
        )
    )
    groups = _alike(
        ({name: reply.get(name) for name in (*variables, 'worker')} for reply in replies), variables
    )
    if len(groups) > 1:
        differing = [name for name in variables if len({str(conf[name]) for _, conf in groups}) > 1]
        print_table(
            console,
            'Workers with different settings',
            ('variable', *(names for names, _ in groups)),
            ((name, *(_value(conf[name]) for _, conf in groups)) for name in differing),
        )
    for names, conf in groups:
        print_table(
            console,
            f'Settings of {names}',
            ('variable', 'value'),
            ((n, _value(conf[n])) for n in conf),
        )


def _value(value: Any) -> Any:
    return ', '.join(map(str, value)) if isinstance(value, list) else value


def _render_report(document: Document, console: Console) -> None:
    print_table(console, 'Software', ('', ''), document['software'].items())
    print_table(console, 'Servers', ('', ''), document['servers'].items())
    if document['workers'] is not None:
        render_workers(document, console)
        render_queues(document, console)


def _render_query(document: Document, console: Console) -> None:
    for job in document['jobs'] or ():
        render_job(job, console)


TABLES: dict[str, Callable[[Document, Console], None]] = {
    'ping': _render_ping,
    'active': _render_active,
    'reserved': _render_reserved,
    'scheduled': _render_scheduled,
    'registered': _render_registered,
    'active_queues': _render_active_queues,
    'stats': _render_stats,
    'conf': _render_conf,
    'report': _render_report,
    'query_task': _render_query,
}
