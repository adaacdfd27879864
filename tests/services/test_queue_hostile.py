"""What an application gives by mistake or malice ends alike on every kind of connection."""

import enum
import re
import uuid
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from mail_outbox import InvalidEmailError, queue_email, queue_emails
from tests.services.adopted import adopt, create_legacy
from tests.services.connections import WAYS, awaited, opened

HELLO = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


class OwnText(str):
    __slots__ = ()


class Kind(str, enum.Enum):  # noqa: UP042 - as applications have it
    WELCOME = 'welcome'


class OwnNumber(enum.IntEnum):
    SEVEN = 7


class OwnMapping(dict):
    """Says something else of itself than it has."""

    def __iter__(self) -> Any:
        return iter(['odd'])


# name -> what is given, and what it says of why it is refused.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    'NUL in a subject': ({'subject': 'a\0b'}, 'subject: must not contain NUL'),
    'NUL in a body': ({'body_text': 'a\0b'}, 'body_text: must not contain NUL'),
    'NUL in a type': ({'email_type': 'a\0'}, 'email_type: '),
    'NUL in a key': ({'idempotency_key': '\0'}, 'idempotency_key: '),
    'NUL in an id': ({'organization_id': 'a\0'}, 'organization_id: '),
    'NUL in data': ({'template_data': {'a': ['\0']}}, 'template_data: must not contain NUL'),
    'NUL in a name of data': ({'metadata': {'\0': 1}}, 'metadata: must not contain NUL'),
    'half a character in a subject': ({'subject': '\ud83d'}, 'subject: contains half a character'),
    'half a character in a body': ({'body_html': '\udfff'}, 'body_html: contains half a character'),
    'half a character in data': ({'template_data': {'a': '\ud800'}}, 'template_data: '),
    'half a character in an id': ({'template_id': '\ud800'}, 'template_id: contains half'),
    'half a character in a tag': ({'tags': {'a': '\udc00'}}, 'tags: a: contains half'),
    'a subject of a megabyte': ({'subject': 'x' * 2**20}, 'subject: 1048576 characters'),
    'an address of a megabyte': ({'recipient': 'x' * 2**20 + '@example.com'}, 'recipient: '),
    'an id of a megabyte': ({'template_id': 'x' * 2**20}, 'template_id: 1048576 characters'),
    'data of two megabytes': ({'template_data': {'a': 'x' * 2**21}}, 'template_data: larger'),
    'a huge number in an id': ({'user_id': 10**30}, 'user_id: is no number of 64 bits'),
    'a number beyond JSON': ({'template_data': {'a': 10**5000}}, 'template_data: is not JSON'),
    'NaN in data': ({'template_data': {'a': float('nan')}}, 'template_data: is not JSON'),
    'infinity in data': ({'metadata': {'a': [-float('inf')]}}, 'metadata: is not JSON'),
    'a decimal in data': ({'template_data': {'a': Decimal(1)}}, 'template_data: is not JSON'),
    'a decimal as an id': ({'user_id': Decimal(7)}, 'user_id: must be an id'),
    'a float as an id': ({'user_id': 7.0}, 'user_id: must be an id'),
    'bytes as an id': ({'template_id': b'7'}, 'template_id: must be an id'),
    'a list as an id': ({'organization_id': [7]}, 'organization_id: must be an id'),
    'a mapping as an id': ({'template_id': {}}, 'template_id: must be an id'),
    'bytes in data': ({'template_data': {'a': b'x'}}, 'template_data: is not JSON'),
    'bytes as a name of data': ({'template_data': {b'a': 1}}, 'template_data: is not JSON'),
    'data that holds itself': ({'template_data': (ring := {}) or ring}, ''),
    'data of a hundred thousand levels': ({'template_data': {}}, ''),
    'bytes as a body': ({'body_text': b'x'}, 'body_text: must be text, not bytes'),
    'bytes as an address': ({'recipient': b'anna@example.com'}, 'recipient: must be text'),
    'a generator of addresses': (
        {'recipient': (a for a in ['anna@example.com'])},
        'recipient: must be text, or a list of texts, not generator',
    ),
    'a set of addresses': ({'cc': {'anna@example.com'}}, 'cc: must be text, or a list'),
    'a generator of headers': ({'headers': (p for p in [('X-A', 'b')])}, 'headers: must be'),
    'a generator of data': ({'template_data': (p for p in [('a', 1)])}, 'template_data: must be'),
    'a time without a zone': ({'send_at': LATER.replace(tzinfo=None)}, 'send_at: must be an aware'),
    'a date of year 1': (
        {'expires_at': datetime(1, 1, 1, tzinfo=UTC)},
        'expires_at: is over before',
    ),
    'a line end in an address': ({'recipient': 'a@example.com\nBcc: b@c.example'}, 'recipient: '),
    'a text for a number': ({'user_id': 'seven'}, 'user_id: .*seven'),
    'an infinite life': ({'expiry_hours': float('inf')}, 'expiry_hours: '),
    'a true number of attempts': ({'max_attempts': True}, 'max_attempts: '),
}
ring['a'] = ring
deep: Any = {}
for _ in range(100_000):
    deep = {'a': deep}
REFUSED['data that holds itself'] = ({'template_data': ring}, 'template_data: is not JSON')
REFUSED['data of a hundred thousand levels'] = (
    {'template_data': deep},
    'template_data: is not JSON',
)
# name -> what is given, and what is stored.
STORED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'right to left, zero width, emoji': (
        {'subject': '\u202eevil\u2066\u200b\u200d \N{PILE OF POO} ع', 'body_text': '\u2028\ufeff'},
        {'subject': '\u202eevil\u2066\u200b\u200d \N{PILE OF POO} ع', 'body_text': '\u2028\ufeff'},
    ),
    'a body of a megabyte with every placeholder': (
        {'body_text': "%s %(a)s :b {c} $1 ? ' \\ \\0 E'\\'' -- " * 25_000},
        {'body_text': "%s %(a)s :b {c} $1 ? ' \\ \\0 E'\\'' -- " * 25_000},
    ),
    'a text of a class of its own': (
        {'subject': OwnText('a'), 'email_type': Kind.WELCOME, 'organization_id': OwnText('8')},
        {'subject': 'a', 'email_type': 'welcome', 'organization_id': 8},
    ),
    'a number of a class of its own': ({'user_id': OwnNumber.SEVEN}, {'user_id': 7}),
    'a number as text': ({'user_id': '7', 'template_id': '-1'}, {'user_id': 7, 'template_id': -1}),
    'the largest number': ({'user_id': 2**63 - 1}, {'user_id': 2**63 - 1}),
    'a large number in data': (
        {'metadata': {'a': 2**70, 'b': 0.5}},
        {'metadata': {'a': 2**70, 'b': 0.5}},
    ),
    'mappings of other classes': (
        {'tags': OrderedDict(b='1', a='2'), 'metadata': OrderedDict(x=(1, 2))},
        {'tags': {'a': '2', 'b': '1'}, 'metadata': {'x': [1, 2]}},
    ),
    'a mapping that says something else of itself': (
        {'tags': OwnMapping(a='b'), 'template_data': OwnMapping(a=1)},
        {'tags': {'a': 'b'}, 'template_data': {'a': 1}},
    ),
    'backslashes before what looks like NUL': (
        {'metadata': {'a': '\\u0000', 'b': '\\\\u0000'}},
        {'metadata': {'a': '\\u0000', 'b': '\\\\u0000'}},
    ),
    'a time in another zone': (
        {'send_at': LATER.astimezone(None)},
        {'next_retry_at': LATER},
    ),
    'a key of every kind of character': (
        {'idempotency_key': '\N{PILE OF POO}\u202e\t\'"%s:a'},
        {'idempotency_key': '\N{PILE OF POO}\u202e\t\'"%s:a'},
    ),
}


@pytest.fixture(params=WAYS)
async def way(request: Any, database: Any) -> Any:
    async with opened(request.param, database.dsn) as found:
        yield found


async def test_what_cannot_be_sent_is_refused_alike_and_before_postgresql_sees_it(
    way: Any, pool: Any
) -> None:
    last = 'a text for a number'  # only PostgreSQL knows what its columns are
    for name in sorted(REFUSED, key=last.__eq__):
        values, why = REFUSED[name]
        with pytest.raises(InvalidEmailError) as refused:
            await awaited(queue_email(way.conn, **HELLO | values))
        assert re.match(why, str(refused.value)), (name, str(refused.value))
        if name == last:
            break
        await awaited(queue_email(way.conn, **HELLO))  # its transaction is as it was
    await awaited(way.rollback())
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


@pytest.mark.parametrize('many', [False, True], ids=['one', 'many'])
async def test_what_is_odd_and_sound_is_stored_alike(way: Any, pool: Any, many: bool) -> None:
    for values, _ in STORED.values():
        if many:
            await awaited(queue_emails(way.conn, iter([HELLO | values, HELLO])))
        else:
            await awaited(queue_email(way.conn, **HELLO | values))
    await awaited(way.commit())
    rows = await pool.fetch('SELECT * FROM outbound_emails ORDER BY id')
    found = [*rows[::2]] if many else rows
    for row, (name, (_, stored)) in zip(found, STORED.items(), strict=True):
        assert {column: row[column] for column in stored} == stored, name


@pytest.mark.parametrize('kind', WAYS)
async def test_ids_are_what_the_columns_of_the_application_are(
    conn: Any, empty_database: Any, kind: str
) -> None:
    own = uuid.UUID('4ef9a417-02e9-4d39-ad75-9611e0fcc33c')
    await create_legacy(conn, 'text')
    await conn.execute(
        'ALTER TABLE outbound_emails ALTER user_id TYPE uuid USING NULL,'
        ' ALTER organization_id TYPE text'
    )
    await adopt(conn)
    async with opened(kind, empty_database.dsn) as way:
        for user, organization in ((own, 7), (str(own), '7')):
            ids = {'user_id': user, 'organization_id': organization}
            await awaited(queue_email(way.conn, **HELLO | ids))
            await awaited(queue_emails(way.conn, [HELLO | ids, HELLO]))
        await awaited(way.commit())
        with pytest.raises(InvalidEmailError, match='uuid'):
            await awaited(queue_email(way.conn, **HELLO | {'user_id': 5}))
    rows = await conn.fetch('SELECT user_id, organization_id FROM mail_outbox ORDER BY id')
    assert [tuple(row) for row in rows] == [(own, '7'), (own, '7'), (None, None)] * 2
