"""Bring the schema up to date, or adopt a table that was there before.

`python -m db.migrate` also finishes an adoption, or gives the table back.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
from pogo_core.error import BadMigrationError

from db.adoption.columns import read_columns
from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.adoption.forecast import Expected, forecast
from db.adoption.locks import TableBusyError
from db.adoption.phases import AdoptionPhase, read_phase
from db.adoption.plan import NotAdoptableError, Plan, is_adopted, plan, refuse_elsewhere
from db.adoption.takeover import WrongPhaseError, take_over
from db.adoption.undo import undo
from db.adoption.words import SYNONYMS
from db.errors import DATABASE_DOWN, words_of
from db.migrate import alone, connect_directly, migrate
from db.schema import known_migrations
from db.zones import compare_zones
from ops.adoption_output import print_forecast, print_given_back, print_taken
from ops.arguments import confirmed
from ops.celery.connect import look_for_celery
from ops.celery.signs import Signs
from ops.output import make_console, print_table, say
from ops.parser import CommandParser, command_name
from ops.progress import StepProgress
from reporting.problems import ProblemError
from reporting.wording import counted
from settings import Settings, load_settings

TAKE_OVER = 'python -m ops import-celery'
DESCRIPTION = (
    '`python -m db.migrate`: bring the schema up to date; '
    'adopt a table that was there before, finish it, give it back.'
)
EPILOG = """An outbound_emails that was there before is adopted: docs/migration.md.
Until --finish nothing of it is changed or removed, and --undo leads back."""


def declare_steps(parser: argparse.ArgumentParser) -> None:
    """Declare what one call does."""
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        '--take-over',
        action='store_true',
        help='take all e-mails, whoever else may be sending: nobody is, you say',
    )
    step.add_argument(
        '--shared', action='store_true', help='take no e-mail of the other system over yet'
    )
    step.add_argument(
        '--finish', action='store_true', help='the last step: give the table the form of a new one'
    )
    step.add_argument('--undo', action='store_true', help='the way back: take away what was added')
    parser.add_argument(
        '--word', action='append', type=_word, default=[], metavar='WORD=STATE',
        help=f"what a word in the application's status means: {', '.join(SYNONYMS)}",
    )  # fmt: skip
    parser.add_argument(
        '--dry-run', action='store_true', help='say what would be done, and change nothing'
    )
    parser.add_argument('--yes', action='store_true', help='do not ask (--finish and --undo do)')


def _word(text: str) -> tuple[str, str]:
    word, _, state = text.rpartition('=')
    if not word or state not in SYNONYMS:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not WORD=STATE with one of {", ".join(SYNONYMS)}'
        )
    return word, state


async def main(arguments: Sequence[str] | None = None) -> int:
    """Migrate the database the settings name. Returns the exit status."""
    parser = CommandParser(
        prog=command_name('python -m db.migrate'),
        description=DESCRIPTION,
        epilog=EPILOG,
        declare=declare_steps,
        tells_version=True,
    )
    options = parser.parse_args(arguments)
    settings = load_settings()
    try:
        conn = await connect_directly(settings.direct_dsn, settings.db_connect_timeout_s)
    except (*DATABASE_DOWN, asyncpg.PostgresError, ValueError) as error:
        print(
            f'cannot connect to PostgreSQL at {settings.direct_place}: {words_of(error)}',
            file=sys.stderr,
        )
        return 1
    try:
        return await Migration(conn, settings, options).run()
    except (NotAdoptableError, WrongPhaseError, TableBusyError) as error:
        print(error, file=sys.stderr)
    except ProblemError as error:
        print(error.problem.line, file=sys.stderr)
        return error.problem.exit_status
    except (BadMigrationError, asyncpg.PostgresError, OSError) as error:
        cause = error.__cause__
        message = f'{error}: {cause}' if cause is not None else str(error).partition('\n')[0]
        hint = getattr(cause or error, 'hint', None)
        print(f'{message}{f" ({hint})" if hint else ""}', file=sys.stderr)
    finally:
        await conn.close()
    return 1


class Migration:
    """One call of the command."""

    def __init__(
        self, conn: asyncpg.Connection, settings: Settings, options: argparse.Namespace
    ) -> None:
        self.conn = conn
        self.settings = settings
        self.options = options
        self.console = make_console()
        self._progress = StepProgress()
        self.zone = settings.db_naive_timezone
        self.hold_after = timedelta(hours=settings.adoption_hold_after_hours)

    async def run(self) -> int:
        """Do the step that was asked for. Returns the exit status."""
        try:
            return await self._run()
        finally:
            self._progress.end()

    async def _run(self) -> int:
        if self.options.finish:
            return await self._finish()
        if self.options.undo:
            return await self._undo()
        await refuse_elsewhere(self.conn)
        if not await is_adopted(self.conn):
            return await self._bring_up_to_date()
        return await self._adopt()

    async def _plan(self) -> Plan:
        return await plan(
            self.conn,
            zone=self.zone,
            max_attempts=self.settings.email_max_attempts,
            given=dict(self.options.word),
        )

    async def _bring_up_to_date(self) -> int:
        if self.options.dry_run:
            say(
                self.console,
                'outbound_emails is not a table that was there before: nothing is adopted.',
            )
            return 0
        await migrate(self.conn, self.settings.email_max_attempts, zone=self.zone)
        print(f'schema is up to date ({max(known_migrations())})')
        return 0

    async def _adopt(self) -> int:
        async with alone(self.conn, self.zone):
            planned = await self._plan()
            phase = await read_phase(self.conn)
            expected: Sequence[Expected] = ()
            if phase is not AdoptionPhase.TAKEN_OVER:
                expected = await forecast(
                    self.conn, await read_columns(self.conn), planned.form, self.hold_after
                )
        clocks = await compare_zones(self.conn, self.zone)
        signs = await look_for_celery(self.settings)
        if phase is not AdoptionPhase.TAKEN_OVER or self.options.dry_run:
            self._tell(planned, expected, signs)
            for clock in clocks:
                say(self.console, f'{clock.severity.capitalize()}: {clock.what}. {clock.remedy}.')
        if self.options.dry_run:
            say(self.console, 'Nothing was changed.')
            return 0
        await migrate(
            self.conn,
            self.settings.email_max_attempts,
            zone=self.zone,
            given=dict(self.options.word),
            progress=self._progress,
        )
        print(f'schema is up to date ({max(known_migrations())})')
        if phase is AdoptionPhase.TAKEN_OVER:
            return 0
        # E-mails whose times are read on the wrong clock would go out too early, or too late.
        on_wrong_clocks = any(clock.severity == 'error' for clock in clocks)
        if self.options.take_over or (
            signs.is_gone and not (self.options.shared or on_wrong_clocks)
        ):
            return await self._take_over(planned)
        why = f'{signs.in_words}.' if signs.in_words else ''
        say(
            self.console,
            f'{why}\nThe table is shared: workers send what queue_email queues from now on, '
            'and nothing else. When beat and the Celery workers have stopped, '
            f'`{TAKE_OVER}` takes over what is left.',
        )
        return 0

    def _tell(self, planned: Plan, expected: Sequence[Expected], signs: Signs) -> None:
        """Say what is added, and what the first start will do."""
        console = self.console
        say(
            console,
            f'outbound_emails was there before, with {counted(planned.emails, "e-mail")}. '
            'Nothing of it is changed.',
        )
        if planned.added:
            say(
                console,
                'Added are the trigger, the view mail_outbox, '
                f'and the columns {", ".join(planned.added)}.',
            )
        if planned.indexes:
            say(console, f'Indexes are built while others write: {", ".join(planned.indexes)}.')
        for note in planned.notes:
            say(console, f'Note: {note}.')
        print_forecast(console, expected, self.hold_after)
        for line in (signs.in_words, *signs.unknown):
            if line:
                say(console, f'Celery: {line}.')
        if signs.messages:
            waiting = counted(signs.messages, 'message waits', 'messages wait')
            say(console, f'Celery: {waiting}: `{TAKE_OVER}` takes them.')

    async def _take_over(self, planned: Plan) -> int:
        async with alone(self.conn, self.zone):
            states = await take_over(
                self.conn, planned.form, hold_after=self.hold_after, progress=self._progress
            )
        print_taken(self.console, states)
        return 0

    async def _finish(self) -> int:
        async with alone(self.conn, self.zone):
            planned = await plan_finish(
                self.conn, zone=self.zone, max_attempts=self.settings.email_max_attempts
            )
            if await read_phase(self.conn) is AdoptionPhase.FINISHED:
                say(self.console, 'outbound_emails is finished already.')
                return 0
            rows = (
                (change.what, 'yes' if change.under_lock else 'no') for change in planned.changes
            )
            print_table(
                self.console,
                'What --finish changes, in this order',
                ('change', 'others wait'),
                rows,
            )
            say(
                self.console,
                f'Others wait for about {planned.lock_s:.1f} s, in one transaction. '
                'An old program that writes to the table fails from then on, '
                'and there is no way back.',
            )
            if self.options.dry_run:
                say(self.console, 'Nothing was changed.')
                return 0
            if not confirmed('Finish outbound_emails?', yes=self.options.yes):
                say(self.console, 'Not confirmed, nothing was changed.')
                return 1
            await finish(self.conn, planned, self._progress)
            say(self.console, 'outbound_emails has the form of a new installation.')
            return 0

    async def _undo(self) -> int:
        async with alone(self.conn, self.zone):
            phase = await read_phase(self.conn)
            form = (
                (await self._plan()).form if phase not in (None, AdoptionPhase.FINISHED) else None
            )
            if self.options.dry_run:
                say(self.console, f'The table is {phase or "not adopted"}. Nothing was changed.')
                return 0
            if not confirmed('Take away what was added to outbound_emails?', yes=self.options.yes):
                say(self.console, 'Not confirmed, nothing was changed.')
                return 1
            states = await undo(self.conn, form, self._progress)
        print_given_back(self.console, states)
        return 0
