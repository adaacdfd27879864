"""Whatever is accepted, the standard library's parser reads back the same; all else is refused.

The checks are those of queue_email: an e-mail that it takes is rendered, in both forms in which it
may travel, and read back.
"""

import email.policy
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Attachment, Content, Email, Extras, InvalidEmailError
from mail_outbox.extra_headers import OWN_HEADERS, STRUCTURED
from mail_outbox.raw_message import read_raw_head, render_raw
from mail_outbox.render import render
from mail_outbox.rendered import Rendered
from mail_outbox.validation import checked_row_sync

SENDER = Sender('shop@example.com', 'Shop')
MAX_BYTES = 1_000_000
same_each_time = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# What can be text in a database; half characters among them, which must be refused.
anything = st.text(max_size=200)
line = st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Zl', 'Zp']), max_size=200)
atom = st.text('abcxyz019!#$%&*+-/=?^_`{|}~', min_size=1, max_size=20)
domain = st.from_regex(r'[a-z]{1,10}(\.[a-z]{2,5}){1,2}', fullmatch=True)
address = st.builds('{}@{}'.format, atom, domain)
# Short and without spaces: Python 3.11 reads the space between two encoded words, which is none.
names = st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Zl', 'Zp', 'Zs']), max_size=12)


def quoted(name: str, spec: str) -> str:
    escaped = name.replace('\\', '\\\\').replace('"', '\\"')
    return f'"{escaped}" <{spec}>'


mailboxes = st.lists(st.tuples(names, address), min_size=1, max_size=5, unique_by=lambda m: m[1])


def rendered(**values: Any) -> Rendered:
    """Queue it as an application does, and render it as a worker does."""
    row = checked_row_sync({'recipient': 'anna@example.com', 'subject': '', **values})
    content = {name: row[name] for name in Email._fields if row.get(name) is not None}
    extras = {name: row[name] for name in Extras._fields if row.get(name) is not None}
    made = {
        'id': 1,
        'message_id': '<made@example.com>',
        'message_date': datetime(2026, 11, 5, 9, 30, tzinfo=UTC),
        **content,
    }
    parts = Content(attachments=row['attachments'])
    return render(Email(**made, extras=Extras(**extras)), parts, SENDER, MAX_BYTES)


def both_forms(**values: Any) -> list[EmailMessage]:
    """Return what a reader gets by relays with and without 8BITMIME."""
    done = rendered(**values)
    in_seven_bits = done.in_seven_bits()
    assert in_seven_bits is not None
    assert in_seven_bits.message.isascii()
    read = []
    for message in (done.message, in_seven_bits.message):
        assert b'\n' not in message.replace(b'\r\n', b'')
        assert b'\r' not in message.replace(b'\r\n', b'')
        assert max(map(len, message.split(b'\r\n'))) <= 998
        parsed = cast('EmailMessage', message_from_bytes(message, policy=email.policy.default))
        assert [part.defects for part in parsed.walk()] == [[]] * sum(1 for _ in parsed.walk())
        read.append(parsed)
    return read


def spaced(text: str) -> str:
    """Folding may turn a run of white space into another (RFC 5322, 2.2.3)."""
    return ' '.join(text.split(' ')).strip(' ')


def with_lf(text: str) -> str:
    text = text.replace('\r\n', '\n').replace('\r', '\n')
    return text if text.endswith('\n') else f'{text}\n'


def payload(part: Any) -> str:
    return cast('bytes', part.get_payload(decode=True)).decode().replace('\r\n', '\n')


@same_each_time
@given(line)
@example('=?utf-8?q?a=0D=0ABcc=3A_x@example.com?=')
@example('a =?utf-8?b?YQ==?= b')
@example('x' * 988)
def test_subject_is_read_back(subject: str) -> None:
    for message in both_forms(subject=subject, body_text=''):
        assert spaced(str(message['Subject'])) == spaced(subject)
        assert message.keys().count('Subject') == 1


EXTRA_NAMES = st.from_regex(r'X-[A-Za-z0-9-]{1,20}', fullmatch=True)


@same_each_time
@given(st.lists(st.tuples(EXTRA_NAMES, line), max_size=6))
@example([('X-A', '=?utf-8?q?x?='), ('X-A', 'b'), ('x-a', 'ü')])
def test_header_fields_are_read_back_in_their_order(pairs: list[tuple[str, str]]) -> None:
    for message in both_forms(body_text='', headers=pairs):
        found = [(name, spaced(str(value))) for name, value in message.items() if name[1] == '-']
        assert found == [(name, spaced(value)) for name, value in pairs]


FIELD_NAMES = st.sampled_from(
    sorted({*OWN_HEADERS, *STRUCTURED, 'x-a', 'comments', 'bad name', ''})
)


@same_each_time
@given(st.lists(st.tuples(FIELD_NAMES, anything), max_size=4), anything, anything)
def test_no_value_makes_another_field_or_is_refused_late(
    headers: list[tuple[str, str]], subject: str, name: str
) -> None:
    values = {'headers': headers, 'subject': subject, 'reply_to': quoted(name, 'a@example.com')}
    plain = both_forms(body_text='')[0].keys()
    try:
        checked_row_sync({'recipient': 'a@example.com', 'body_text': '', **values})
    except InvalidEmailError:
        assume(False)
    for message in both_forms(body_text='', **values):
        given_names = {field.lower() for field, _ in headers} | {'reply-to'}
        assert {key.lower() for key in message} <= {key.lower() for key in plain} | given_names


@same_each_time
@given(mailboxes, mailboxes, mailboxes, mailboxes)
def test_addresses_are_read_back_and_bcc_is_not(
    to: list[tuple[str, str]],
    cc: list[tuple[str, str]],
    bcc: list[tuple[str, str]],
    reply_to: list[tuple[str, str]],
) -> None:
    fields = {'recipient': to, 'cc': cc, 'bcc': bcc, 'reply_to': reply_to}
    values = {name: [quoted(*box) for box in boxes] for name, boxes in fields.items()}
    done = rendered(body_text='', **values)
    everybody = [spec for boxes in (to, cc, bcc) for _, spec in boxes]
    assert {a.casefold() for a in done.envelope.recipients} == {a.casefold() for a in everybody}
    assert len(done.envelope.recipients) == len({a.casefold() for a in everybody})
    for message in both_forms(body_text='', **values):
        assert 'Bcc' not in message
        for field, boxes in (('To', to), ('Cc', cc), ('Reply-To', reply_to)):
            found = [(a.display_name, a.addr_spec) for a in message[field].addresses]
            assert found == boxes


bodies = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=2000)


@same_each_time
@given(bodies, st.none() | bodies)
@example('.\r\n..\r\n', None)
@example('ü\r.\n', '<p>=')
@example('From x\n--=_a--\n' + 'ä' * 70_000, None)
@example('x' * 3000, 'Content-Transfer-Encoding: 8bit\r\n\r\nü')
def test_bodies_are_read_back(text: str, html: str | None) -> None:
    for message in both_forms(body_text=text, body_html=html):
        parts = [part for part in message.walk() if not part.is_multipart()]
        if html is None or not html.strip():
            expected = [text]
        else:
            expected = [text, html] if text.strip() else [html]
        assert [payload(part) for part in parts] == [with_lf(body) for body in expected]


files = st.builds(
    Attachment,
    filename=st.none() | st.text(st.characters(exclude_categories=['Cs', 'Cc']), max_size=60),
    content_type=st.sampled_from([None, 'application/pdf', 'text/csv; charset=utf-8', 'image/png']),
    data=st.binary(max_size=3000),
    cid=st.none() | st.from_regex(r'[a-z0-9.]{1,20}@[a-z]{1,9}', fullmatch=True),
)


@same_each_time
@given(st.lists(files, max_size=4), st.booleans())
def test_attachments_are_read_back(attachments: list[Attachment], has_html: bool) -> None:
    html = ''.join(f'<img src="cid:{a.cid}">' for a in attachments if a.cid) + '<p>'
    values = {'body_html': html} if has_html else {'body_text': 'x'}
    for message in both_forms(attachments=attachments, **values):
        parts = [part for part in message.walk() if not part.is_multipart()][1:]
        found = sorted(
            (part.get_filename() or '', part.get_payload(decode=True), part['Content-ID'] or '')
            for part in parts
        )
        assert found == sorted(  # get_filename leaves out white space around a name
            ((a.filename or '').strip(), a.data, f'<{a.cid}>' if a.cid else '') for a in attachments
        )


@same_each_time
@given(st.binary(max_size=400), st.booleans())
@example(b'To: a@example.com\n\nb', True)
@example(b'\n\n\n.\n..\n', True)
def test_message_as_given_is_sent_as_it_is_or_refused(data: bytes, has_from: bool) -> None:
    if has_from:
        data = b'From: a@example.com\r\nMessage-ID: <1@x.y>\r\nDate: x\r\n' + data
    row = Email(1, 'anna@example.com', raw_message=data)
    try:
        done = render_raw(row, data, SENDER, MAX_BYTES)
    except InvalidEmailError as error:
        assert str(error).startswith('raw: ')  # noqa: PT017 - most bytes are refused
        return
    head = read_raw_head(data)
    body = data[head.body_at :]
    assert done.message.endswith(body.replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'))
    fields = [line for name, line in head.lines if name not in ('bcc', 'resent-bcc')]
    assert b''.join(line.replace(b'\n', b'\r\n') + b'\r\n' for line in fields) in done.message
    assert done.envelope.recipients == ('anna@example.com',)


@pytest.mark.parametrize('name', ['recipient', 'cc', 'from_address', 'envelope_from', 'reply_to'])
@same_each_time
@given(text=anything)
def test_any_text_for_an_address_is_one_or_is_refused_by_its_name(name: str, text: str) -> None:
    try:
        done = rendered(body_text='', **{name: text})
    except InvalidEmailError as error:
        assert str(error).startswith(f'{name}: ')  # noqa: PT017 - most texts are refused
        return
    for spec in (*done.envelope.recipients, done.envelope.sender):
        assert spec == '' or '@' in spec
        assert not set(spec) & set('\r\n\0<> ') or spec.startswith('"')
