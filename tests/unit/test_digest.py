"""The digest of an e-mail's content is the same for the same content, and only then."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mail_outbox.envelope import Attachment
from mail_outbox.new_email import FIELDS
from mail_outbox.validation import CONTENT, NAMES, EmailContent, checked_row_sync

HELLO = {
    'recipient': 'a@example.com', 'subject': 's', 'body_text': 't', 'idempotency_key': 'k',
    'organization_id': 1,
}  # fmt: skip
OTHER: dict[str, Any] = {
    'recipient': 'b@example.com',
    'cc': 'b@example.com',
    'bcc': 'b@example.com',
    'reply_to': 'b@example.com',
    'from_address': 'b@example.com',
    'sender_address': 'b@example.com',
    'envelope_from': 'b@example.com',
    'calendar': 'BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nEND:VEVENT\nEND:VCALENDAR',
    'raw': b'From: b@example.com\n\nb',
    'template_id': 7,
    'template': 'welcome',
    'template_data': {'a': 1},
    'locale': 'de',
    'template_version': 2,
    'headers': {'X-A': 'b'},
    'one_copy_each': True,
    'attachments': [Attachment('a.txt', None, b'data')],
}


def digest(**values: Any) -> bytes:
    found = checked_row_sync(HELLO | values)['content_digest']
    assert isinstance(found, bytes)
    assert len(found) == 32
    return found


@pytest.mark.parametrize('name', CONTENT)
def test_each_part_of_the_content_changes_it(name: str) -> None:
    parts: dict[str, Any] = {name: OTHER.get(name, 'another text')}
    if name == 'raw':  # it is all of the content
        parts |= {'subject': None, 'body_text': None}
    assert digest(**parts) != digest()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('idempotency_key', 'other'),
        ('organization_id', 2),
        ('priority', 'low'),
        ('send_at', datetime(2999, 1, 1, tzinfo=UTC)),
        ('expiry_hours', 1),
        ('max_attempts', 3),
        ('user_id', 5),
        ('content_id', 'c2'),
        ('message_id', '<other@example.com>'),
        ('cc', None),
    ],
)
def test_what_is_no_content_does_not(name: str, value: Any) -> None:
    assert digest(**{name: value}) == digest()


def test_order_of_names_and_form_of_lists_do_not() -> None:
    assert digest(template_data={'a': 1, 'b': 2}) == digest(template_data={'b': 2, 'a': 1})
    assert digest(cc=['a@example.com', 'b@example.com']) == digest(
        cc='a@example.com, b@example.com'
    )


def test_without_a_key_there_is_none() -> None:
    assert checked_row_sync(HELLO | {'idempotency_key': None})['content_digest'] is None


def test_keys_of_several_types_are_an_object_like_any_other() -> None:
    data = {1: 'x', 'a': 2}
    assert digest(template_data=data) == digest(template_data={'a': 2, '1': 'x'})


def test_new_email_has_every_value_that_can_be_given() -> None:
    assert set(FIELDS) == NAMES
    assert set(CONTENT) < EmailContent.__annotations__.keys()
