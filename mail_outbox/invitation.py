"""Calendar invites: iCalendar (RFC 5545) as an alternative of the body (RFC 6047)."""

import re

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.mime import text_part

MAX_CALENDAR_CHARS = 1024 * 1024
BEGIN, END = 'BEGIN:VCALENDAR', 'END:VCALENDAR'
METHOD = re.compile(r'^METHOD:([A-Za-z-]{1,40})[ \t]*\r?$', re.IGNORECASE | re.MULTILINE)
COMPONENT = re.compile(r'^BEGIN:', re.IGNORECASE | re.MULTILINE)


def check_calendar(calendar: str) -> str:
    """Return the METHOD of an iCalendar text.

    Raises:
        InvalidEmailError: it is none, or has no METHOD, without which no program shows an invite
            (RFC 6047, 2.4).
    """
    if len(calendar) > MAX_CALENDAR_CHARS:
        raise InvalidEmailError(
            f'calendar: {len(calendar)} characters, at most {MAX_CALENDAR_CHARS} are allowed'
        )
    upper = calendar.strip().upper()
    if not (upper.startswith(BEGIN) and upper.endswith(END)):
        raise InvalidEmailError(f'calendar: must be iCalendar, from {BEGIN} to {END}')
    inside = COMPONENT.search(calendar, calendar.upper().index(BEGIN) + len(BEGIN))
    # The calendar's own properties come before its components (RFC 5545, 3.6).
    method = METHOD.search(calendar, 0, inside.start() if inside else len(calendar))
    if method is None:
        raise InvalidEmailError(
            'calendar: has no METHOD before its events, such as METHOD:REQUEST; without one it is '
            'a file: give it as an attachment'
        )
    return method[1].upper()


def calendar_part(calendar: str, *, eight_bit: bool = False) -> bytes:
    """Return the part that shows an invite.

    Raises:
        InvalidEmailError: see check_calendar.
    """
    content_type = f'text/calendar; charset="utf-8"; method={check_calendar(calendar)}'
    return text_part('calendar', calendar, content_type.encode(), eight_bit=eight_bit)
