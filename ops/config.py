"""Read every setting and judge it, without a connection; --connect also dials."""

import argparse
import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from rich.console import Console

from configuration.dkim_keys import read_signing
from configuration.live import make_domain_limits, make_routes
from configuration.origins import mistyped, origins
from configuration.relays import relay_options
from configuration.view import view
from ops.answer import Answer
from ops.arguments import add_json
from ops.connect import Connections
from ops.doctor import CHECKS, times_of
from ops.doctor import render as render_findings
from ops.output import print_table, say
from reporting.blockers import SAFETY
from reporting.checks import relays, timeouts
from reporting.checks.finding import Finding, Severity, error, note, warning
from reporting.doctor import examine
from reporting.problems import Document, Problem
from reporting.wording import counted
from settings import Settings, read_settings

DIALLED = ('postgresql', 'redis', 'relays')  # checks of the doctor's
PARTS = ('DB_HOST', 'DB_PORT', 'DB_USER', 'DB_PASSWORD', 'DB_NAME')  # of DATABASE_URL
SEE_ALL = 'docs/configuration.md describes every variable'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='check')
    check = verbs.add_parser('check', help='read and judge every setting; nothing is changed')
    check.add_argument(
        '--connect',
        action='store_true',
        help='also dial PostgreSQL, Redis, MongoDB, relays, the mailbox',
    )
    check.add_argument('--all', action='store_true', help='list the defaults, too')
    add_json(check)


async def run(_: Connections, options: argparse.Namespace) -> Answer:
    """Judge what is there to be read; other commands do not start with settings that are wrong."""
    try:
        read = read_settings()
    except SystemExit as refused:  # a file that cannot be read
        read = [('', str(refused).removeprefix('settings: '))]
    settings = read if isinstance(read, Settings) else None
    checks: dict[str, Callable[[], Awaitable[list[Finding]]]] = {}
    if settings is None:
        assert isinstance(read, list)  # noqa: S101 - for mypy
        refused_values = [error(f'{name}: {why}' if name else why, SEE_ALL) for name, why in read]
        checks['values'] = partial(_found, lambda: iter(refused_values))
    else:
        checks |= _judged(settings)
    checks['names'] = partial(_found, _names)
    connections = Connections(settings) if settings and options.connect else None
    if connections is not None:
        more = {'content': connections.has_mongo, 'mailbox': connections.settings.bounce_imap_url}
        wanted = (*DIALLED, *(name for name, is_there in more.items() if is_there))
        checks |= {name: partial(CHECKS[name], connections) for name in wanted}
    try:
        document = await examine(checks)
    finally:
        if connections is not None:
            await connections.close()
    document['connected'] = connections is not None
    document['settings'] = [] if settings is None else _listed(settings, with_defaults=options.all)
    errors = [row for row in document['findings'] if row['severity'] == Severity.ERROR]
    what = f'{counted(len(errors), "error calls", "errors call")} for action'
    return Answer(document, [Problem(what, 'see the remedies')] if errors else [])


def _judged(settings: Settings) -> dict[str, Callable[[], Awaitable[list[Finding]]]]:
    """Return the checks of settings that can be read."""
    return {
        'addresses': partial(_found, partial(_unused, settings)),
        'timeouts': partial(timeouts.check, times_of(settings)),
        'relay settings': partial(_found, partial(_relays, settings)),
        'files': partial(_found, partial(_files, settings)),
        'safety switches': partial(_found, partial(_safety, settings)),
    }


async def _found(find: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return what is found: files may be on a slow disk."""
    return await asyncio.to_thread(lambda: list(find()))


def _names() -> Iterator[Finding]:
    for name, place, meant in mistyped():
        yield warning(f'{name} ({place}) is no setting', f'did you mean {meant}?')


def _unused(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is not None:
        given = [v for v, origin in origins().items() if v in PARTS and origin.place != 'default']
        if given:
            what = f'DATABASE_URL is used, and not {", ".join(given)}'
            yield note(what, 'leave one of the two out, if they may differ')


def _relays(settings: Settings) -> Iterator[Finding]:
    try:
        options = relay_options(settings)
    except (OSError, ssl.SSLError, ValueError) as refused:
        yield error(f'a relay cannot be made: {refused}', 'correct the file or the value it names')
        return
    default = Settings.model_fields['smtp_from_email'].default
    sender = settings.smtp_from_email
    yield from relays.judge_configuration(options, sender if sender == default else None)
    make_routes(settings)
    make_domain_limits(settings)


def _files(settings: Settings) -> Iterator[Finding]:
    try:
        read_signing(settings)
    except (OSError, ValueError) as refused:
        yield error(str(refused), 'correct the file, or let it be read')
    for variable in ('ingress_tls_certificate', 'ingress_tls_key'):
        path = getattr(settings, variable)
        try:
            if path is not None:
                path.read_bytes()
        except OSError as refused:
            yield error(
                f'{variable.upper()}: cannot read {path}: {refused.strerror}', 'let it be read'
            )


def _safety(settings: Settings) -> Iterator[Finding]:
    for name in settings.safety.names:
        yield note(f'{name} is on: {SAFETY[name]}', 'take it from the settings in production')


def _listed(settings: Settings, *, with_defaults: bool) -> list[Document]:
    """Return the settings; secrets are only shown to be there."""
    values = view(settings)
    return [
        {'variable': variable, 'value': values[variable], 'read_as': origin.variable,
         'from': origin.place}
        for variable, origin in origins().items()
        if with_defaults or origin.place != 'default'
    ]  # fmt: skip


def render(document: Document, console: Console) -> None:
    """Print the settings that are given, then what is wrong."""
    if document['settings']:
        print_table(
            console,
            'Settings',
            ('variable', 'value', 'from'),
            (
                (s['variable'], s['value'],
                 s['from'] if s['read_as'] == s['variable'] else f'{s["from"]} ({s["read_as"]})')
                for s in document['settings']
            ),
        )  # fmt: skip
    render_findings(document, console)
    if not document['connected']:
        say(console, 'Nothing was dialled: --connect does.')
