"""What is read out of messages that came back, whoever wrote them."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail.bounce.codes import says_dead_address
from mail.bounce.reading import read_returned_message
from mail.bounce.report import FeedbackKind, Report
from mail.bounce.return_path import ReturnPaths
from tests.unit.bounce_messages import PATHS, complaint, dsn


def only(data: bytes, *to: str) -> Report:
    (report,) = read_returned_message(data, to, PATHS).reports
    return report


def test_dsn_tells_recipient_code_and_e_mail() -> None:
    report = only(dsn())
    assert report.kind is FeedbackKind.BOUNCE
    assert (report.recipient, report.enhanced_code) == ('anna@example.net', '5.1.1')
    assert report.message_id == '<m1@example.com>'
    assert report.sent_at is not None
    assert report.sent_at.isoformat() == '2026-11-30T12:00:00+00:00'
    assert report.email_id is None
    assert 'user unknown' in (report.diagnostic or '')


@pytest.mark.parametrize(
    ('given', 'kind'),
    [
        ({'status': '5.1.1'}, FeedbackKind.BOUNCE),
        ({'status': '5.1.10'}, FeedbackKind.BOUNCE),
        ({'status': '5.2.2', 'diagnostic': 'smtp; 552 5.2.2 full'}, FeedbackKind.SOFT_BOUNCE),
        ({'status': '5.7.1', 'diagnostic': 'smtp; 550 5.7.1 spam'}, FeedbackKind.SOFT_BOUNCE),
        ({'status': '4.4.7', 'diagnostic': 'smtp; too long'}, FeedbackKind.SOFT_BOUNCE),
        ({'action': 'delayed', 'status': '4.4.1'}, FeedbackKind.DELAY),
        ({'status': '5.0.0', 'diagnostic': 'smtp; 550 User unknown'}, FeedbackKind.BOUNCE),
        ({'status': '5.0.0', 'diagnostic': 'smtp; 550 5.1.1 no'}, FeedbackKind.BOUNCE),
        ({'status': '5.0.0', 'diagnostic': 'smtp; 550 go away'}, FeedbackKind.SOFT_BOUNCE),
    ],
)
def test_only_a_dead_address_is_a_hard_bounce(given: dict[str, str], kind: FeedbackKind) -> None:
    assert only(dsn(**given)).kind is kind


@pytest.mark.parametrize('action', ['delivered', 'relayed', 'expanded'])
def test_a_report_of_a_delivery_is_no_failure(action: str) -> None:
    reading = read_returned_message(dsn(action=action, status='2.0.0'))
    assert reading.reports == () or not reading.reports
    assert reading.why_none == 'it reports a delivery, no failure'


def test_what_is_told_to_people_alone_is_read_where_nothing_else_says_why() -> None:
    data = dsn(status='5.0.0').replace(
        b'Diagnostic-Code: smtp; 550 5.1.1 <anna@example.net>: user unknown\r\n', b''
    )
    said = data.replace(
        b'It could not be delivered.',
        b'It failed:\r\n\r\n  anna@example.net\r\n    no such user here',
    )
    assert only(data).kind is FeedbackKind.SOFT_BOUNCE
    assert only(said).kind is FeedbackKind.BOUNCE
    assert (only(said).diagnostic or '').startswith('no such user')


def test_each_recipient_of_a_dsn_has_his_own_report() -> None:
    more = '\nFinal-Recipient: rfc822; bob@example.net\nAction: delayed\nStatus: 4.2.2\n'
    reports = read_returned_message(dsn(more=more)).reports
    assert [(r.recipient, r.kind.value) for r in reports] == [
        ('anna@example.net', 'bounce'),
        ('bob@example.net', 'delay'),
    ]
    assert len({r.key for r in reports}) == 2


def test_original_recipient_counts_before_the_final_one() -> None:
    report = only(dsn(more='Original-Recipient: rfc822;first@example.net\n'))
    assert report.recipient == 'first@example.net'


def test_signed_return_path_names_the_e_mail_whoever_notes_it() -> None:
    path = PATHS.of(42)
    assert only(dsn(), path).email_id == 42
    assert only(dsn(to=path.upper())).email_id == 42
    assert only(b'Delivered-To: ' + path.encode() + b'\r\n' + dsn()).email_id == 42


def test_forged_foreign_and_broken_return_paths_name_nothing() -> None:
    path = PATHS.of(42)
    other = ReturnPaths('bounces@example.com', ('another secret of ours',))
    for address in (
        path.replace('+42-', '+43-'),
        other.of(42),
        path.replace('example.com', 'example.org'),
        path.replace('bounces+', 'bounce+'),
        'bounces@example.com',
        'bounces+@example.com',
        'bounces+42@example.com',
        'bounces+99999999999999999999-aaaaaaaaaaaaaaaa@example.com',
        f'bounces+9999999999999999999-{"a" * 16}@example.com',
        'x' * 100_000 + path,
    ):
        assert PATHS.email_id(address) is None, address[:80]


def test_secrets_rotate() -> None:
    new = ReturnPaths('bounces@example.com', ('the new secret of ours', *PATHS.secrets))
    assert new.email_id(PATHS.of(7)) == 7
    assert new.of(7) != PATHS.of(7)
    assert 'secret' not in repr(new)


def test_longest_id_makes_a_local_part_that_smtp_allows() -> None:
    paths = ReturnPaths(f'{"b" * 27}@example.com', ('a secret of sixteen',))
    path = paths.of(2**63 - 1)
    assert len(path.rpartition('@')[0]) <= 64
    assert paths.email_id(path) == 2**63 - 1


def test_complaint_names_who_complained_and_about_what() -> None:
    report = only(complaint(rcpt='anna@example.net'))
    assert report.kind is FeedbackKind.COMPLAINT
    assert (report.recipient, report.message_id) == ('anna@example.net', '<m1@example.com>')
    assert only(complaint(original_from=PATHS.of(9))).email_id == 9
    assert only(complaint()).recipient is None


@pytest.mark.parametrize('kind', ['not-spam', 'auth-failure', ''])
def test_what_takes_a_complaint_back_is_none(kind: str) -> None:
    reading = read_returned_message(complaint(kind))
    assert not reading.reports
    assert 'no complaint' in (reading.why_none or '')


def test_qmail_s_own_form_is_read() -> None:
    text = b"""\
From: MAILER-DAEMON@qmail.example.net
To: bounces@example.com
Date: 30 Nov 2026 12:00:05 -0000
Subject: failure notice

Hi. This is the qmail-send program at qmail.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<anna@example.net>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <bounces@example.com>
Date: Mon, 30 Nov 2026 12:00:00 +0000
Message-ID: <m1@example.com>
Subject: Hello
"""
    report = only(text)
    assert (report.kind.value, report.recipient) == ('bounce', 'anna@example.net')
    assert report.message_id == '<m1@example.com>'
    assert report.sent_at is not None


def test_an_answer_from_a_holiday_is_no_failure() -> None:
    reading = read_returned_message(
        b'From: a@example.net\r\nAuto-Submitted: auto-replied\r\nSubject: away\r\n\r\n'
        b'I am away. Mail bob@example.net: user unknown here.\r\n'
    )
    assert not reading.reports
    assert reading.why_none == 'it reports no failure'


def test_the_same_report_has_the_same_key_and_another_one_another() -> None:
    assert only(dsn()).key == only(dsn()).key
    assert only(dsn()).key != only(dsn(own_id='<report-2@mx.example.net>')).key


def deep(levels: int) -> bytes:
    parts = [f'Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n' for n in range(levels)]
    return ''.join(parts).encode() + b'x\n' * 50_000


HOSTILE = {
    'nothing': b'',
    'zeros': b'\0' * 300_000,
    'deep multiparts': deep(3000),
    'deep messages': b'Content-Type: message/rfc822\n\n' * 20_000,
    'one long line': b'Subject: ' + b'a' * 5_000_000,
    'lines of one byte': b'From: a@b\n\n' + b'\n' * 500_000,
    'angle brackets': b'Subject: x\n\n' + b'<' * 250_000,
    'addresses': b'Subject: returned mail\n\n' + b'<a@b.c> user unknown\n' * 20_000,
    'recipients': dsn(more='\nFinal-Recipient: rfc822; b@c.d\nAction: failed\n' * 20_000),
    'fields': b'X: y\n' * 60_000 + dsn(),
    'unknown charset': dsn().replace(b'text/plain', b'text/plain; charset=nonsense-9'),
    'eight bits': dsn(diagnostic='smtp; 550 ünbekannt').decode().encode('latin-1', 'replace'),
    'encoded words': b'To: ' + b'=?utf-8?b?////?= ' * 15_000 + b'\n\nx',
    'dates': dsn().replace(b'30 Nov 2026', b'99 Foo 99999999999'),
    'huge': dsn() + b'x' * 30_000_000,
}


@pytest.mark.parametrize('data', HOSTILE.values(), ids=HOSTILE)
def test_hostile_messages_take_a_bounded_time(data: bytes) -> None:
    started = time.process_time()
    reading = read_returned_message(data, (PATHS.of(1),), PATHS)
    assert time.process_time() - started < 2
    assert len(reading.reports) <= 200
    for report in reading.reports:
        assert len(report.diagnostic or '') <= 500
        assert (report.recipient or '').isprintable()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([dsn(), complaint()]))
def test_any_damage_is_read_without_an_error(seed: int, message: bytes) -> None:
    dice = random.Random(seed)
    data = bytearray(message)
    for _ in range(dice.randrange(1, 20)):
        place = dice.randrange(len(data))
        match dice.randrange(4):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                del data[place : place + dice.randrange(200)]
            case 2:
                data[place:place] = data[: dice.randrange(400)]
            case 3:
                data[place:place] = bytes(dice.randrange(256) for _ in range(20))
        data = data or bytearray(b'x')
    read_returned_message(bytes(data), (), PATHS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    read_returned_message(data, (), PATHS)


def test_codes_decide_before_words() -> None:
    assert says_dead_address('5.1.1', None)
    assert not says_dead_address('5.7.1', 'user unknown')
    assert says_dead_address('5.0.0', 'Unrouteable address')
    assert not says_dead_address(None, None)
