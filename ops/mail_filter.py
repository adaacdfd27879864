"""Which e-mails a command is about: options that `failed`, `held`, `retry` and `purge` share."""

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from db.selection import Selection, read_clock
from ops.answer import Document
from ops.arguments import duration_s
from ops.connect import Connections

LONG_AGO = timedelta(days=36525)  # what is asked for as 999999999d has no date
FILTERS = ('since', 'until', 'error_like', 'domain', 'type', 'relay')


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as an operator names it: so long ago by the database's clock, or at a time."""

    ago_s: float | None = None
    at: datetime | None = None

    def by(self, now: datetime) -> datetime:
        """Return the time it means."""
        return self.at or now - min(timedelta(seconds=self.ago_s or 0.0), LONG_AGO)


def moment(text: str) -> Moment:
    """Read 2h, or 2026-08-01T14:30 (UTC unless it says otherwise)."""
    try:
        return Moment(ago_s=duration_s(text))
    except argparse.ArgumentTypeError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither a length of time such as 30m, 2h or 7d nor a time such as 2026-08-01T14:30Z'
        ) from None
    return Moment(at=at if at.tzinfo else at.replace(tzinfo=UTC))


def text_value(text: str) -> str:
    """Read a text that PostgreSQL can take."""
    if not text or any('\ud800' <= c <= '\udfff' for c in text):
        raise argparse.ArgumentTypeError(f'{text!a} is empty or no text')
    return text


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that narrow down which e-mails it is about."""
    group = parser.add_argument_group('which e-mails', 'Conditions; those given must all be true.')
    group.add_argument(
        '--since',
        type=moment,
        metavar='TIME',
        help='last tried (or expired, cancelled; held: due) within 2h, 7d, or after a time',
    )
    group.add_argument(
        '--until', type=moment, metavar='TIME', help='the same, before: 30m ago, or a time'
    )
    group.add_argument(
        '--error-like',
        type=text_value,
        metavar='TEXT',
        help='in the last error or reply, in any case; %% is anything',
    )
    group.add_argument(
        '--domain', type=text_value, metavar='DOMAIN', help='of a recipient, such as example.com'
    )
    group.add_argument('--type', type=text_value, metavar='TYPE', help='email_type')
    group.add_argument(
        '--relay',
        type=text_value,
        metavar='NAME',
        help='the relay of the last attempt, such as primary',
    )


def has_filters(options: argparse.Namespace) -> bool:
    """Whether any was given."""
    return any(getattr(options, name) is not None for name in FILTERS)


async def make_selection(
    connections: Connections, options: argparse.Namespace, statuses: tuple[str, ...]
) -> Selection:
    """Return what the options say; lengths of time count from the database's now."""
    now = await connections.ask_postgres(read_clock)
    return Selection(
        statuses=statuses,
        since=options.since.by(now) if options.since else None,
        until=options.until.by(now) if options.until else None,
        error_like=options.error_like,
        domain=options.domain,
        email_type=options.type,
        relay=options.relay,
    )


def described(selection: Selection) -> Document:
    """Return the conditions for a document, without those that are not set."""
    named = {
        'status': list(selection.statuses),
        'since': selection.since,
        'until': selection.until,
        'error_like': selection.error_like,
        'domain': selection.domain,
        'type': selection.email_type,
        'relay': selection.relay,
    }
    return {name: value for name, value in named.items() if value is not None}
