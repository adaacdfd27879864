"""queue_email refuses what can never be sent, before anything is inserted."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from mail_outbox.address_fields import Sender
from mail_outbox.envelope import BY_LIFE, MAX_SUBJECT_CHARS, Content, Email, InvalidEmailError
from mail_outbox.field_checks import MAX_BODY_BYTES, MAX_DATA_BYTES
from mail_outbox.insertion import QUEUE
from mail_outbox.outbox import queue_email, queue_emails
from mail_outbox.queueing import QUEUE_SQL, STALE_SQL
from mail_outbox.render import render
from mail_outbox.senders import UNLISTED

SURROGATE = '\ud800'
NOW = datetime.now(UTC)


class Connection(asyncpg.Connection):
    """Stands in for the caller's connection; keeps what it was asked to insert."""

    __slots__ = ('sql', 'values')

    def __init__(self) -> None:
        self.sql = ''
        self.values: tuple[Any, ...] = ()

    def __del__(self) -> None:
        """There is nothing to close."""

    @asynccontextmanager
    async def transaction(self) -> Any:
        yield

    @property
    def stored(self) -> dict[str, Any]:
        return dict(zip(QUEUE.parameters, self.values, strict=True))

    async def fetchrow(self, sql: str, *values: Any) -> tuple[Any, ...]:
        if sql == STALE_SQL:
            return (False,)
        if sql == UNLISTED.numbered:
            return (None,)  # whoever is to be the sender, he is allowed
        self.sql, self.values = sql, values
        return (42, None)

    async def fetchmany(self, _: str, rows: list[tuple[Any, ...]]) -> list[tuple[int, None]]:
        return [(i, None) for i in range(len(rows))]


@pytest.fixture
def conn() -> Connection:
    return Connection()


VALID = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}


async def queue(conn: Any, **parts: Any) -> int:
    return await queue_email(conn, **{**VALID, **parts})


async def test_valid_e_mail_is_inserted_with_its_defaults(conn: Connection) -> None:
    assert await queue(conn) == 42
    assert conn.sql == QUEUE_SQL
    given = {name: value for name, value in conn.stored.items() if value is not None}
    assert given == VALID | {'priority': 1, 'max_attempts': BY_LIFE, 'expiry_hours': 24}


async def test_every_part_is_inserted_as_it_was_given(conn: Connection) -> None:
    send_at, expires_at = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    plain = {
        'recipient': 'Anna <anna@example.com>, bob@example.com',
        'subject': 'Grüße',
        'body_html': '<p>ü</p>',
        'email_type': 'receipt',
        'template_id': 7,
        'content_id': 'c1',
        'max_attempts': 3,
        'send_at': send_at,
        'expires_at': expires_at,
        'user_id': 8,
        'organization_id': 9,
        'idempotency_key': 'order-1',
        'from_address': 'Anna <anna@example.com>',
        'sender_address': 'bob@example.com',
        'envelope_from': '<>',
        'reply_to': 'help@example.com',
        'bcc': 'boss@example.com',
    }
    data, headers = {'name': 'Anna', 'items': [1, None]}, [['X-Tag', 'a'], ['X-Tag', 'b']]
    tags, metadata = {'campaign': 'spring'}, {'order': {'id': 5}}
    changed = {
        'cc': ['Cora <cora@example.com>', 'carl@example.com'],
        'message_id': 'order.1@shop.example',
        'priority': 'high',
    }
    json_values = {
        'template_data': data, 'headers': headers, 'tags': tags, 'metadata': metadata,
    }  # fmt: skip
    await queue(conn, **plain, **changed, **json_values)
    stored = conn.stored
    assert {name: stored[name] for name in plain} == plain
    assert stored['cc'] == 'Cora <cora@example.com>, carl@example.com'
    assert (stored['priority'], stored['expiry_hours']) == (0, 24)
    assert json.loads(stored['template_data']) == data
    assert json.loads(stored['headers']) == headers
    assert json.loads(stored['tags']) == tags
    assert json.loads(stored['metadata']) == metadata
    assert stored['message_id'] == '<order.1@shop.example>'


def test_statement_takes_as_many_values_as_are_given() -> None:
    count = len(QUEUE.parameters)
    assert [f'${i}' in QUEUE_SQL for i in range(1, count + 2)] == [True] * count + [False]


@pytest.mark.parametrize(
    ('part', 'value', 'error'),
    [
        ('recipient', '', 'recipient'),
        ('recipient', 'anna', 'recipient'),
        ('recipient', 'anna@example.com\r\nBcc: x@example.com', 'recipient'),
        (
            'recipient',
            ','.join(f'r{i}@example.com' for i in range(101)),
            'recipient: 101 addresses',
        ),
        ('recipient', f'{SURROGATE}@example.com', 'recipient'),
        ('recipient', '=?utf-8?q?a=0D=0Ab?= <anna@example.com>', 'recipient'),
        ('recipient', '"', 'recipient'),
        ('recipient', '(' * 2000 + ')' * 2000, 'recipient'),
        ('recipient', '(é)' * 10_660 + '@example.org', 'recipient'),
        ('recipient', '"' * 16_000, 'recipient'),
        ('subject', None, 'subject'),
        ('subject', 'two\nlines', 'subject'),
        ('subject', 'two\rlines', 'subject'),
        ('subject', 'a\0b', 'subject'),
        ('subject', 'x' * (MAX_SUBJECT_CHARS + 1), 'subject: 989 characters'),
        ('subject', SURROGATE, 'subject'),
        ('body_text', None, 'body'),
        ('body_text', 'a\0b', 'body_text'),
        ('body_text', SURROGATE, 'body_text'),
        ('body_text', 'ü' * (MAX_BODY_BYTES // 2 + 1), 'body_text: larger than'),
        ('body_html', '<p>\0</p>', 'body_html'),
        ('body_html', 'x' * (MAX_BODY_BYTES + 1), 'body_html: larger than'),
        ('template_data', {'at': NOW}, 'template_data: is not JSON'),
        ('template_data', '{}', 'template_data: must be a mapping'),
        ('one_copy_each', 'no', 'one_copy_each: must be True or False'),
        ('max_bytes', '5', 'max_bytes: must be a number of bytes'),
        ('user_id', 1.5, 'user_id: must be an id'),
        ('template_id', b'7', 'template_id: must be an id'),
        ('template_id', [7], 'template_id: must be an id'),
        ('template_id', 'x' * 256, 'template_id: 256 characters'),
        ('template_id', 'a\nb', 'template_id: must not contain CR'),
        ('template_id', SURROGATE, 'template_id: contains half'),
        ('template_id', 2**63, 'template_id: is no number of 64 bits'),
        ('organization_id', True, 'organization_id: must be an id'),
        ('attachments', ['a.pdf'], r'attachments: has a str, must be Attachment'),
        ('from_address', 'Doe, J. <j@example.com>', '.*a name with a comma stands in quotes'),
        ('template_data', {'n': float('nan')}, 'template_data: is not JSON'),
        ('template_data', {'a': 'x\0'}, 'template_data: must not contain NUL'),
        ('template_data', {'a': SURROGATE}, 'template_data'),
        ('tags', {'a': 1}, 'tags: a: must be text'),
        ('tags', {'': 'x'}, 'tags: a name: 0 characters'),
        ('tags', {'a': None}, "tags: 'a' must be text"),
        ('tags', ['a'], 'tags: must be a mapping'),
        ('tags', {str(i): 'x' for i in range(51)}, 'tags: 51'),
        ('metadata', 'x', 'metadata: must be a mapping'),
        ('metadata', {'a': {1}}, 'metadata: is not JSON'),
        ('metadata', {'a': '\0'}, 'metadata: must not contain NUL'),
        ('message_id', 'no', 'message_id: '),
        ('message_id', '<a@b> <c@d>', 'message_id: '),
        ('message_id', '<ü@b.example>', 'message_id: '),
        ('message_id', '<a..b@b.example>', 'message_id: '),
        ('message_id', 'a@' + 'b' * 249, 'message_id: '),
        ('message_id', 5, 'message_id: must be text'),
        ('headers', [('Cc', 'a@example.com')], 'headers: Cc is made by the worker'),
        ('template_data', {'a': 'x' * MAX_DATA_BYTES}, 'template_data: larger than'),
        ('headers', {'Subject': 'x'}, 'headers: Subject is made by the worker'),
        ('headers', {'X-Tag': 'a\r\nBcc: x@example.com'}, 'headers'),
        ('headers', {'X Tag': 'a'}, 'headers'),
        ('headers', {'X-Tag': 1}, 'headers'),
        ('headers', {'X-Tag': SURROGATE}, 'headers'),
        ('headers', {'Reply-To': 'anna'}, 'headers: Reply-To'),
        ('headers', {'Reply-To': 'Größe <anna'}, 'headers: Reply-To'),
        ('headers', {'reply-to': ''}, 'headers: reply-to'),
        ('headers', {'Reply-To': '"' * 30_000}, 'headers: Reply-To'),
        ('headers', {'References': '<ü@example.com>'}, 'headers: References'),
        (
            'headers',
            {'X-Tag': 'x' * 1000},
            'headers: X-Tag: more than 998 characters without a space',
        ),
        ('headers', {'X' * 300: 'x'}, 'headers: '),
        ('headers', {1: 'x'}, 'headers: 1 is not a header field name'),
        ('headers', {f'X-{i}': 'x' * 60 for i in range(1100)}, r'headers: \d+ characters, at most'),
        ('headers', 'X-Tag: x', 'headers: must be a mapping, or pairs, not str'),
        ('priority', 'urgent', "priority: 'urgent' is none of high, normal, low"),
        ('priority', 0, 'priority'),
        ('max_attempts', 0, 'max_attempts'),
        ('max_attempts', 101, 'max_attempts'),
        ('email_type', '', 'email_type'),
        ('email_type', 'a\nb', 'email_type'),
        ('email_type', SURROGATE, 'email_type'),
        ('content_id', 'x' * 256, 'content_id: 256 characters'),
        ('idempotency_key', '', 'idempotency_key'),
        ('idempotency_key', 'a\0', 'idempotency_key'),
        ('idempotency_key', SURROGATE, 'idempotency_key'),
        ('send_at', NOW.replace(tzinfo=None), 'send_at: must be an aware datetime'),
        (
            'expires_at',
            (NOW + timedelta(days=1)).replace(tzinfo=None),
            'expires_at: must be an aware datetime',
        ),
        ('expires_at', NOW - timedelta(seconds=1), 'expires_at: is over'),
        ('expiry_hours', 0, 'expiry_hours'),
        ('expiry_hours', -1, 'expiry_hours'),
        ('expiry_hours', float('nan'), 'expiry_hours'),
        ('expiry_hours', float('inf'), 'expiry_hours'),
        ('expiry_hours', 24 * 3651, 'expiry_hours'),
    ],
    ids=lambda value: (
        'time'
        if isinstance(value, datetime)
        else repr(value)[:40].encode('ascii', 'replace').decode()
    ),
)
async def test_value_that_cannot_be_sent_is_refused_by_its_name(
    conn: Connection, part: str, value: Any, error: str
) -> None:
    with pytest.raises(InvalidEmailError, match=rf'^{error}'):
        await queue(conn, **{part: value})
    assert conn.sql == '', 'nothing may be inserted'


async def test_expiry_before_the_time_to_send_is_refused(conn: Connection) -> None:
    with pytest.raises(
        InvalidEmailError, match=r'^expires_at: is over before the e-mail could be sent'
    ):
        await queue(conn, send_at=NOW + timedelta(hours=2), expires_at=NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    'parts',
    [
        {'subject': ''},
        {'subject': 'x' * MAX_SUBJECT_CHARS},
        {'subject': None, 'body_text': None, 'template_id': 1},
        {'body_text': None, 'body_html': ''},
        {'body_text': 'x' * MAX_BODY_BYTES},
        {'body_text': 'line\r\nline\n'},
        {'template_data': {}},
        {'template_data': {'path': r'C:\u0000'}},
        {'template_data': {'smile': '\N{GRINNING FACE}'}},
        {'headers': {}},
        {'max_attempts': 1},
        {'max_attempts': 100},
        {'email_type': 'x' * 255},
        {'send_at': NOW - timedelta(days=1)},
        {'expires_at': NOW + timedelta(minutes=5)},
        {'expiry_hours': 0.1},
    ],
    ids=lambda parts: repr(parts)[:40],
)
async def test_value_at_its_limit_is_accepted(conn: Connection, parts: dict[str, Any]) -> None:
    assert await queue(conn, **parts) == 42


# What queue_email lets through is not to die in the worker, where nobody can put it right.


@pytest.mark.parametrize(
    'odd',
    ['\x0b', '\x0c', '\x1c', '\x7f', '\x85', '\u2028', '\u200e', '\ufeff', '\N{GRINNING FACE}'],
)
@pytest.mark.parametrize('place', ['subject', 'body_text', 'body_html', 'header', 'name'])
async def test_what_is_queued_can_be_rendered(conn: Connection, place: str, odd: str) -> None:
    value = f'a{odd}b'
    match place:
        case 'header':
            parts: dict[str, Any] = {'headers': {'X-Tag': value}}
        case 'name':
            parts = {'recipient': f'"{value}" <anna@example.com>'}
        case _:
            parts = {place: value}
    try:
        await queue(conn, **parts)
    except InvalidEmailError:
        return
    names = ('recipient', 'subject', 'body_text', 'body_html', 'headers')
    email = Email(1, message_id='<1@x>', **{name: conn.stored[name] for name in names})
    assert render(email, Content(), Sender('shop@example.com'), 10_000_000).message


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('recipient', None), ('recipient', [b'a@example.com']), ('cc', 5),
        ('from_address', ['a@b.c']), ('subject', 5),
        ('body_text', b'bytes'), ('priority', 1),
        ('email_type', 7), ('max_attempts', '5'), ('send_at', 'tomorrow'), ('expires_at', 5),
        ('expiry_hours', '24'),
    ],
)  # fmt: skip
async def test_value_of_another_type_is_named(conn: Connection, name: str, value: Any) -> None:
    with pytest.raises(InvalidEmailError, match=name):
        await queue(conn, **{name: value})
    assert not conn.sql


async def test_unknown_and_missing_arguments_of_one_of_many_name_its_place(
    conn: Connection,
) -> None:
    for email, what in (
        ({**VALID, 'subjet': 'x'}, 'subjet'),
        ({'subject': 'x', 'body_text': 'y'}, 'recipient'),
    ):
        with pytest.raises(InvalidEmailError, match=f'e-mail 1: .*{what}'):
            await queue_emails(conn, [VALID, email])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    'parts',
    [
        {'recipient': recipient}
        for recipient in ('', '"', 'anna', 'a@example.com, bob', '(' * 999, 'x' * 40_000, 'a@b@c')
    ]
    + [
        {'headers': {name: value}}
        for name in ('Reply-To', 'List-Id', 'References', 'X-Tag', 'Precedence', 'Subject', 'X Y')
        for value in (
            '',
            'x',
            'ü',
            '<a@example.com>',
            'Größe <a@example.com>',
            '<ü@example.com>',
            'x' * 1000,
            'a\nb',
            '"',
            '\t',
        )
    ]
    + [{'subject': subject} for subject in ('x' * 988, 'ü' * 988, 'x' * 989, 'a\rb', '\x0b')]
    + [
        {'body_text': body, 'body_html': html}
        for body in (None, '', 'x')
        for html in (None, '', '<p>')
    ],
    ids=lambda parts: ascii(parts)[:60],
)
async def test_queue_email_and_render_refuse_the_same(
    conn: Connection, parts: dict[str, Any]
) -> None:
    parts = {**VALID, **parts}
    queued = rendered = ''
    try:
        await queue_email(conn, **parts)  # type: ignore[arg-type]
    except InvalidEmailError as error:
        queued = str(error)
    headers = json.dumps(parts.pop('headers')) if 'headers' in parts else None
    try:
        render(
            Email(1, **parts, headers=headers, message_id='<1@x>'),
            Content(),
            Sender('shop@example.com'),
            10**8,
        )
    except InvalidEmailError as error:
        rendered = str(error)
    assert queued == rendered


@pytest.mark.parametrize(
    'body', ['ü' * 3_000_000, 'ü' * 6_000_000, '\r\n' * 4_000_000, '\n' * 6_000_000]
)
async def test_message_that_is_too_large_when_encoded_is_refused_by_both(
    conn: Connection, body: str
) -> None:
    parts = VALID | {'body_text': body, 'body_html': f'<p>{body[:1_000_000]}'}
    queued = rendered = False
    try:
        await queue_email(conn, **parts, max_bytes=10_000_000)  # type: ignore[arg-type]
    except InvalidEmailError:
        queued = True
    try:
        render(
            Email(1, **parts, message_id='<1@x>'), Content(), Sender('shop@example.com'), 10_000_000
        )
    except InvalidEmailError:
        rendered = True
    assert queued == rendered


async def test_total_size_is_refused_with_both_numbers(conn: Connection) -> None:
    with pytest.raises(
        InvalidEmailError, match=r'^message: \d{8} bytes, at most 26214400 are allowed'
    ):
        await queue(conn, body_text='ü' * 5_000_000)
    assert await queue(conn, body_text='ü' * 5_000_000, max_bytes=40_000_000)
    assert await queue(conn, body_text='ü' * 5_000_000, template_id=1), (
        'the template may have the text'
    )


async def test_loop_turns_while_large_values_are_checked(conn: Connection) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    for parts in ({'body_text': 'ü' * 1_000_000}, {'recipient': 'x <a@example.com>, ' * 300}):
        turns = 0
        await queue(conn, **parts)
        assert turns
    turns = 0
    await queue_emails(conn, [VALID] * 1000)  # type: ignore[arg-type]
    assert turns >= 9
    turning.cancel()
