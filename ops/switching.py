"""Pausing and resuming what stays so over restarts: for `control`, `relay` and `cron`."""

import argparse
import socket
from collections.abc import Set as AbstractSet

from rich.console import Console

from actions.switch import Switched, pause_switch, resume_switch
from db.switches import SwitchKind
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm
from ops.connect import Connections
from ops.output import print_table, say
from ops.person import this_user
from reporting.problems import Document
from reporting.wording import SWITCH_WORDS
from settings import Settings

MEANING = {
    SwitchKind.QUEUE: 'workers that serve it claim neither jobs nor e-mails',
    SwitchKind.RELAY: 'no e-mail goes to it; '
    'without another relay e-mails wait, and lose no attempt',
    SwitchKind.EMAIL_TYPE: 'its e-mails are not sent; they stay due, and expire as always',
    SwitchKind.CRON: 'its slots are skipped, and recorded as skipped',
}
RESUMED = {
    SwitchKind.QUEUE: 'workers that serve it go on',
    SwitchKind.RELAY: 'e-mails go to it again',
    SwitchKind.EMAIL_TYPE: 'what is due is sent now',
    SwitchKind.CRON: 'its next slot runs',
}
RESUME_BY = {
    SwitchKind.QUEUE: 'control resume --queue',
    SwitchKind.RELAY: 'relay resume',
    SwitchKind.EMAIL_TYPE: 'control resume --type',
    SwitchKind.CRON: 'cron resume',
}


def add_pause(parser: argparse.ArgumentParser) -> None:
    """Give a command that pauses its options."""
    parser.add_argument('--reason', metavar='TEXT', help='for those who wonder later')
    parser.add_argument('--force', action='store_true', help='also a name that nobody knows yet')
    add_change(parser)
    add_json(parser)


async def switch(
    connections: Connections,
    word: str,
    kind: SwitchKind,
    name: str,
    *,
    reason: str | None,
    force: bool,
    dry_run: bool,
    yes: bool,
) -> Answer:
    """Pause or resume something for all workers, over restarts.

    Args:
        word: pause or resume.
    """

    def ask(plan: Switched) -> None:
        verb, meaning = ('Pause', MEANING) if plan.pausing else ('Resume', RESUMED)
        what = f'{verb} the {SWITCH_WORDS[kind]} {name}'
        confirm(f'{what}: {meaning[kind]}?', yes=yes)

    if word == 'resume':
        return _answer(await resume_switch(connections, kind, name, dry_run=dry_run, confirm=ask))
    done = await pause_switch(
        connections, kind, name, by=operator(), reason=reason, force=force, dry_run=dry_run,
        configured=configured_names(connections.settings, kind), confirm=ask,
    )  # fmt: skip
    return _answer(done)


def _answer(done: Switched) -> Answer:
    return Answer({
        'switch': 'pause' if done.pausing else 'resume',
        'dry_run': done.dry_run,
        'kind': done.kind.value,
        'name': done.name,
        'changed': done.changed,
        'already': done.already,
        'waiting': done.waiting,
        'workers': done.workers,
    })  # fmt: skip


def configured_names(settings: Settings, kind: SwitchKind) -> AbstractSet[str]:
    """Return the names of this kind that the settings know."""
    if kind is SwitchKind.RELAY:
        return {relay.name for relay in settings.all_relays}
    return settings.email_hold_types if kind is SwitchKind.EMAIL_TYPE else frozenset()


def operator() -> str:
    """Return who gives the command, for those who wonder later."""
    return f'{this_user() or "unknown"}@{socket.gethostname()}'[:200]


def render_switch(document: Document, console: Console) -> None:
    """Print what was done, and what undoes it."""
    kind, name = SwitchKind(document['kind']), document['name']
    pausing = document['switch'] == 'pause'
    waiting = (
        ''
        if document['waiting'] is None
        else f' E-mails of this type that wait: {document["waiting"]}.'
    )
    if document['dry_run']:
        meaning = MEANING[kind] if pausing else RESUMED[kind]
        say(
            console,
            f'Would {document["switch"]} the {SWITCH_WORDS[kind]} {name}: {meaning}.{waiting} '
            'Nothing was changed.',
        )
    elif document['already']:
        say(console, f'The {SWITCH_WORDS[kind]} {name} was paused already; nothing was changed.')
    elif pausing:
        say(
            console,
            f'The {SWITCH_WORDS[kind]} {name} is paused: {MEANING[kind]}.{waiting} '
            f'Restarts do not change that; `python -m ops {RESUME_BY[kind]} {name}` does.',
        )
    else:
        say(console, f'The {SWITCH_WORDS[kind]} {name} is resumed: {RESUMED[kind]}.{waiting}')
    if document['changed']:
        workers = 'nobody knows' if document['workers'] is None else document['workers']
        say(console, f'Workers that hear of it, at once or within 3 seconds: {workers}.')


def render_switches(rows: list[Document], console: Console) -> None:
    """Print what is paused."""
    print_table(
        console,
        'Paused',
        ('what', 'name', 'since', 'by', 'reason'),
        (
            (
                SWITCH_WORDS[SwitchKind(s['kind'])],
                s['name'],
                s['paused_at'],
                s['paused_by'],
                s['reason'],
            )
            for s in rows
        ),
    )
