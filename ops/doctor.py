"""Everything that is or will be wrong, with its remedy. A server that is away stops no check of another."""

import argparse
import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console

from ops.answer import Answer, Document, Level, Trouble, TroubleError
from ops.arguments import add_json
from ops.celery import check as celery
from ops.checks import (
    clocks,
    fleet,
    machine,
    outbox,
    postgresql,
    redis_server,
    refused,
    relays,
    timeouts,
)
from ops.checks.finding import LEVELS, Check, Finding, Severity, away, error
from ops.connect import Connections
from ops.output import counted, print_table, say

HELP = 'look for what is or will be wrong: servers, relays, clocks, settings, rows; each with its remedy'

CHECKS: Mapping[str, Check] = {
    'postgresql': postgresql.check,
    'redis': redis_server.check,
    'celery': celery.check,
    'relays': relays.check,
    'workers': fleet.check,
    'jobs': refused.check,
    'outbox': outbox.check,
    'content': outbox.check_content,
    'clocks': clocks.check,
    'timeouts': timeouts.check,
    'disks': machine.check,
}
CHECK_TIMEOUT_S = 60.0
ORDER = tuple(Severity)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'checks', nargs='*', metavar='CHECK', help=f'only these: {", ".join(CHECKS)}'
    )
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Run the checks at the same time. Errors and warnings are trouble, notes are not."""
    names = list(dict.fromkeys(options.checks or CHECKS))
    if unknown := [name for name in names if name not in CHECKS]:
        raise TroubleError(
            Trouble(
                f'there is no check {unknown[0]!r}',
                f'give some of {", ".join(CHECKS)}',
                exit_status=2,
            )
        )
    found = dict(
        zip(
            names,
            await asyncio.gather(*(examine(connections, CHECKS[n]) for n in names)),
            strict=True,
        )
    )
    # Several checks meet the same server that is away: the first tells.
    told: dict[Finding, str] = {}
    for name, findings in found.items():
        for finding in findings:
            told.setdefault(finding, name)
    rows = [{'check': name} | asdict(finding) for finding, name in told.items()]
    rows.sort(key=lambda row: ORDER.index(row['severity']))
    bad = [row for row in rows if row['severity'] != Severity.NOTE]
    missing = {
        name: list(dict.fromkeys(f.away for f in findings if f.away))
        for name, findings in found.items()
    }
    document: Document = {
        'level': max(
            (LEVELS[row['severity']] for row in rows), key=list(Level).index, default=Level.OK
        ).value,
        'checks': {name: state_of(findings) for name, findings in found.items()},
        'not_made': {name: services for name, services in missing.items() if services},
        'findings': rows,
    }
    calls = counted(len(bad), 'finding calls', 'findings call')
    troubles = [Trouble(f'{calls} for action', 'see the remedies')] if bad else []
    return Answer(document, troubles)


def state_of(findings: list[Finding]) -> str:
    """Return the gravest severity of a check's findings, or ok."""
    return min((finding.severity for finding in findings), key=ORDER.index, default='ok')


async def examine(connections: Connections, check: Check) -> list[Finding]:
    """Run one check, whatever becomes of it."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check(connections)
    except TroubleError as failure:
        return [away(failure.trouble)]
    except TimeoutError:
        return [error(f'no answer within {CHECK_TIMEOUT_S:g} s', 'see why the server is so slow')]
    except Exception as failure:  # noqa: BLE001 - a fault of one check must not hide what the others found
        return [
            error(
                f'the check itself failed: {type(failure).__name__}: {failure}',
                'please report this',
            )
        ]


def render(document: Document, console: Console) -> None:
    """Print the findings, the gravest first, and which checks found nothing."""
    print_table(
        console,
        'Findings',
        ('', 'check', 'what', 'remedy'),
        (
            (row['severity'], row['check'], row['what'], row['remedy'])
            for row in document['findings']
        ),
    )
    counts = Counter(row['severity'] for row in document['findings'])
    fine = [name for name, state in document['checks'].items() if state == 'ok']
    told = ', '.join(counted(counts[severity], severity) for severity in ORDER)
    say(console, f'{told}. Nothing to say about: {", ".join(fine) or "-"}.')
    if missing := document['not_made']:
        told = '; '.join(
            f'{name} (without {", ".join(services)})' for name, services in missing.items()
        )
        say(console, f'Not made, or only in part: {told}.')
