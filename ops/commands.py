"""The operators' commands: one table. What a command is made of is imported when it is used."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from ops.parser import CommandParser
from ops.spare import spare_imports

if TYPE_CHECKING:  # types alone: help is there before any of these
    from rich.console import Console

    from ops.answer import Answer
    from ops.connect import Connections
    from reporting.problems import Document


class CommandModule(Protocol):
    """What each command's module has."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the command's options."""

    async def run(self, connections: 'Connections', options: argparse.Namespace, /) -> 'Answer':
        """Do it."""

    def render(self, document: 'Document', console: 'Console', /) -> None:
        """Print a document that run returned."""


class Command(NamedTuple):
    """A row of the table."""

    help: str
    examples: Sequence[str] = ()
    module: str = ''  # in ops; empty: its name
    needs_settings: bool = True  # it does not run with settings that are wrong

    def load(self, name: str) -> CommandModule:
        """Import it."""
        spare_imports()
        import_module('logs')  # before rich: it keeps structlog from loading more of that
        return cast(CommandModule, import_module(f'ops.{self.module or name}'))


GROUPS: Mapping[str, Mapping[str, Command]] = {
    'overview': {
        'status': Command(
            'workers, queues, outbox, duties and services at a glance; says what is wrong',
            ('', '--json'),
        ),
        'doctor': Command(
            'look for what is or will be wrong: servers, relays, clocks, settings, rows; '
            'each with its remedy',
            ('', 'relays clocks'),
        ),
        'config': Command(
            'check: read and judge every setting, without a connection; --connect dials',
            ('check', 'check --connect'),
            needs_settings=False,
        ),
        'top': Command('a live screen of the fleet; --once prints it once', ('', '--once')),
        'events': Command(
            'claims and outcomes as they happen; --json prints one JSON object a line',
            ('', '--json'),
        ),
    },
    'e-mails': {
        'find': Command(
            'e-mails by recipient, domain, id, Message-ID, subject, type, state, error, time: '
            'the newest first',
            ('anna@example.com', '--status dead --error-like greylist', '"Your receipt"'),
        ),
        'failed': Command(
            'failed, dead and uncertain e-mails, and those that not every recipient got, '
            'the newest first',
            ('--since 2h', '--domain example.com --error-like greylist'),
        ),
        'explain': Command(
            'why an e-mail is not sent yet, when it will be, and what to do', ('123',)
        ),
        'show': Command(
            'one e-mail: its row, its attempts, its attachments, and what happens next',
            ('123', '123 --content'),
        ),
        'watch': Command(
            'follow one e-mail until it is sent or over; 0: sent, 1: not sent, 75: not yet',
            ('123', '123 --for 5m'),
        ),
        'send': Command(
            'send a test e-mail, and say each step: queued, claimed, relay, reply, state',
            ('anna@example.com', 'anna@example.com --type receipt --wait 5m'),
        ),
        'edit': Command(
            'correct whom an e-mail that was not sent goes to, and send it again',
            ('123 --recipient anna@example.com',),
        ),
        'retry': Command(
            'send failed, expired, uncertain or cancelled e-mails again: some ids, or all that fit',
            ('123 124', '--status failed --since 2h --dry-run', '--status failed --relay primary'),
        ),
        'resolve': Command(
            'decide about uncertain e-mails: mark them sent, or give them up',
            ('123 --as sent', '124 125 --as failed'),
        ),
        'held': Command(
            'e-mails that are held until you decide: list them, release them to be sent, '
            'or cancel them',
            ('ls', 'release 123'),
        ),
        'purge': Command(
            'queue: remove waiting jobs, the mail stays due; outbox: cancel mail that waits',
            ('outbox --status pending --type newsletter --dry-run', 'queue --queue celery'),
        ),
        'qshape': Command('the age of waiting mail by recipient domain, as Postfix shows it'),
        'schedule': Command(
            'when an e-mail that relays defer is tried again, with the settings as they are',
            ('', '--hours 4'),
        ),
    },
    'templates': {
        'template': Command(
            'push, ls, show, preview, test, rm: templates that are kept in files',
            ('push templates/', 'preview welcome --locale de', 'test welcome anna@example.com'),
        ),
    },
    "a person's data": {
        'erase': Command(
            "erase what is held on one person's address",
            ('anna@example.com --reason "asked for it" --dry-run',),
        ),
        'export': Command(
            "everything that is held on one person's address, as JSON",
            ('anna@example.com --output anna.json',),
        ),
    },
    'workers, queues, relays, duties': {
        'inspect': Command(
            'the words of `celery inspect`: active, reserved, scheduled, stats, ping, conf ...',
            ('active', "ping -d 'mail-1@*'"),
        ),
        'control': Command(
            'pause, resume, shutdown, pool_grow, rate_limit, log_level, reload, stacks ...',
            ('pause --queue arq:queue --reason "relay moves"', 'resume --queue arq:queue'),
        ),
        'queue': Command(
            'ls: ready, deferred and running jobs of every queue; peek: the first jobs, one by one',
            ('ls', 'peek'),
        ),
        'relay': Command(
            'ls: health by worker; test: a dialogue without mail; pause, resume: over restarts',
            ('ls', 'test primary', 'pause backup --reason "bounces everything"'),
        ),
        'cron': Command(
            'ls: duties, their last and next runs; run one now; pause, resume: over restarts',
            ('ls', 'run process_pending_emails'),
        ),
        'call': Command(
            'run a job: send_email 123, retry_failed_email 123, or one of the duties',
            ('send_email 123 --wait',),
        ),
        'result': Command("a job's result, or where it waits", ('5f0c7e',)),
    },
    'who gets mail, who may send, who did what': {
        'suppress': Command(
            'ls, add, rm: addresses and whole domains that get no mail, or none of a type',
            (
                'ls anna@example.com',
                'add anna@example.com --reason "asked for it"',
                'rm anna@example.com --type newsletter',
            ),
        ),
        'bounce': Command(
            'take in messages that came back, bounces and complaints, from files or stdin',
            ('--recipient "$RECIPIENT" < message', '--dry-run returned/*.eml'),
        ),
        'sender': Command('ls, add, rm: addresses and whole domains that e-mails may be from'),
        'quota': Command(
            'ls, set, rm: how many e-mails an organisation may queue in a day',
            ('set 7 10000 --zone Europe/Berlin', "set '*' 1000", 'ls'),
        ),
        'token': Command(
            'create, ls, revoke: who may use the HTTP API', ('create shop --scope send', 'ls')
        ),
        'dns': Command(
            'the SPF, DKIM, DMARC and return-path records that our domains need, '
            'and whether DNS has them',
            ('', 'example.com --nameserver 192.0.2.53'),
        ),
        'webhook': Command(
            'ls, add, rm, test, deliveries, replay: where events about e-mails are posted',
            ('add https://example.com/hook --event sent,failed', 'replay 1 --since 2h'),
        ),
        'audit': Command('ls: who changed what, from where and when', ('ls --since 1d',)),
    },
    'moving in': {
        'import-celery': Command(
            "take over what waits in Celery's Redis, and its outbound_emails; "
            '--undo gives them back',
            ('--dry-run',),
            'celery.command',
        ),
    },
}

COMMANDS: Mapping[str, Command] = {
    name: command for group in GROUPS.values() for name, command in group.items()
}


def declare_commands(parser: CommandParser) -> None:
    """Give a parser all commands."""
    commands = parser.add_commands(GROUPS, dest='command', required=True, metavar='COMMAND')
    for name, command in COMMANDS.items():
        commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            examples=command.examples,
            declare=partial(_declare_arguments, name),
        )


def _declare_arguments(name: str, parser: CommandParser) -> None:
    COMMANDS[name].load(name).add_arguments(parser)
