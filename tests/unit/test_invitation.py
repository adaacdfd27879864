"""Calendar invites stand beside the body, with the METHOD that they have themselves."""

import email.policy
from email import message_from_bytes
from typing import Any, cast

import pytest

from mail_outbox.envelope import Attachment, InvalidEmailError
from tests.unit.reader import read, rendered

INVITE = (
    'BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//EN\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\n'
    'SUMMARY:Größe\r\nMETHOD:WRONG\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n'
)


def test_invite_is_the_last_alternative() -> None:
    message = read(
        Attachment('a.png', None, b'x', cid='a'),
        Attachment('a.pdf', None, b'x'),
        body_html='<img src="cid:a">',
        calendar=INVITE,
    )
    alternative = cast('Any', next(iter(message.iter_parts())))
    kinds = [part.get_content_type() for part in alternative.iter_parts()]
    assert kinds == ['text/plain', 'multipart/related', 'text/calendar']
    invite = list(alternative.iter_parts())[-1]
    assert invite['Content-Type'].params == {'charset': 'utf-8', 'method': 'REQUEST'}
    assert invite.get_content().replace('\n', '\r\n').replace('\r\r', '\r') == INVITE


def test_invite_in_eight_bits_is_the_same() -> None:
    done = rendered(body_text='ü', body_html='<p>ö', calendar=INVITE)
    assert done.eight_bit is not None
    assert len(done.eight_bit) == 3
    message = cast('Any', message_from_bytes(done.message, policy=email.policy.default))
    assert [part.get_content().strip() for part in message.iter_parts()][:2] == ['ü', '<p>ö']


@pytest.mark.parametrize(
    ('calendar', 'why'),
    [
        ('', 'must be iCalendar'),
        ('BEGIN:VCALENDAR', 'must be iCalendar'),
        (INVITE.replace('METHOD:REQUEST\r\n', ''), 'no METHOD before its events'),
        (INVITE.replace('REQUEST', 'RE;QUEST'), 'no METHOD'),
        (INVITE + 'x', 'must be iCalendar'),
        (INVITE.replace('VERSION', 'X' * 1_100_000), 'at most 1048576'),
        (INVITE.replace('2.0', '\0'), 'NUL'),
    ],
)
def test_what_is_no_invite_is_refused(calendar: str, why: str) -> None:
    with pytest.raises(InvalidEmailError, match=f'^calendar: .*{why}'):
        rendered(calendar=calendar)
