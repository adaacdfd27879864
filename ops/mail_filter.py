"""Which e-mails a command is about: options that those share which find, retry or cancel."""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ops.arguments import duration_s
from reporting.mail_filter import MailFilter, Moment

FILTERS = {  # options, and the conditions that they are
    'since': 'since',
    'until': 'until',
    'error_like': 'error_like',
    'domain': 'domain',
    'type': 'email_type',
    'relay': 'relay',
    'recipient': 'recipient',
    'subject': 'subject_like',
    'organization': 'organization_id',
}


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
            f'{text!r} is neither a length of time such as 30m, 2h or 7d '
            'nor a time such as 2026-08-01T14:30Z'
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
        help='the relay of the last attempt, by its name',
    )
    group.add_argument(
        '--recipient', type=text_value, metavar='ADDRESS', help='among To, Cc and Bcc'
    )
    group.add_argument(
        '--subject', type=text_value, metavar='TEXT', help='in the subject; %% is anything'
    )
    group.add_argument(
        '--organization', type=text_value, metavar='ID', help='organization_id: of one tenant'
    )


def filter_of(options: Mapping[str, Any], **meant: str | None) -> MailFilter:
    """Return the conditions that the options of add_filters say.

    Args:
        meant: More of MailFilter's, which hold where no option says otherwise.
    """
    said = {
        condition: options[name] for name, condition in FILTERS.items() if options[name] is not None
    }
    return MailFilter(**(meant | said))
