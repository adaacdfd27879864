"""A new state or dead reason.

Every place that must know it is named by a test here, or knows it by itself.
"""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from actions.emails import why_not
from db.adoption.words import SHOWN_INSTEAD, SYNONYMS
from db.states import CLAIMED, OURS, OVER, OVER_UNSENT, RETRYABLE, TRIED, UNSENT, sql_list
from mail_outbox.states import DeadReason, Status, Trait
from ops.celery.tally import MEANINGS
from reporting.blockers import EmailFacts
from reporting.next_step import next_step, tries_again
from reporting.reasons import DEAD, reasons_of
from tests.conftest import ROOT
from tests.services.test_sql import statements

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MIGRATIONS = ' '.join(path.read_text() for path in sorted((ROOT / 'db/migrations').glob('*.sql')))
PAGE = (ROOT / 'docs/states.md').read_text()
# Who picks these up is said in mail_outbox/states.py: a worker's lease, an operator, the other
# system.
WITHOUT_AN_END = {Status.SENDING, Status.HELD, Status.EXTERNAL}


def email(status: Status, **more: Any) -> dict[str, Any]:
    """Return a row that has nothing but its state."""
    return {
        'id': 7, 'status': status.value, 'attempts': 1, 'max_attempts': 5, 'next_retry_at': None,
        'expires_at': None,
        'read_at': NOW, 'created_at': NOW, 'relay': None, 'sent_at': NOW, 'dead_reason': None,
        'message_id': '<m@x>',
        'claimed_by': 'w1', 'lease_expires_at': NOW, 'last_error': None, 'smtp_response': None,
        'recipient_outcomes': None, 'email_type': None, 'lost_attempts': 0, 'template_id': None,
        'is_emptied': False, 'content_id': None, 'feedback_at': NOW, 'feedback': '5.1.1 unknown',
    } | more  # fmt: skip


def words_in(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text.replace("''", "'"))


@pytest.mark.parametrize('status', Status)
def test_a_state_is_claimed_or_over_or_it_is_said_who_picks_it_up(status: Status) -> None:
    is_said = status in WITHOUT_AN_END
    assert is_said + (Trait.CLAIMED in status.traits) + (Trait.OVER in status.traits) == 1


def test_the_page_has_a_paragraph_for_each_state_and_a_row_for_each_dead_reason() -> None:
    assert re.findall(r'^### (\w+)$', PAGE, re.MULTILINE) == [status.value for status in Status]
    for paragraph in re.split(r'^### .*$', PAGE, flags=re.MULTILINE)[1:]:
        assert '**When nobody does anything**' in ' '.join(paragraph.split())
    rows = re.findall(r'^\| `([^`]+)` \|', PAGE, re.MULTILINE)
    assert rows == [reason.value for reason in DeadReason]


@pytest.mark.parametrize(
    ('constraint', 'enum'),
    [
        ('outbound_emails_status_known', Status),
        ('outbound_emails_dead_reason_known', DeadReason),
    ],
)
def test_the_latest_migration_lists_the_words_of_the_enum(constraint: str, enum: Any) -> None:
    latest = re.findall(rf'{constraint} CHECK\s*\(%?\w+ IN \(([^)]*)\)', MIGRATIONS)[-1]
    assert words_in(latest) == [member.value for member in enum]


def test_partial_indexes_list_the_states_that_statements_list() -> None:
    indexes = re.findall(r'CREATE (?:UNIQUE )?INDEX [^;]*;', MIGRATIONS)
    lists = {found for index in indexes for found in re.findall(r'status IN \(([^)]*)\)', index)}
    assert lists == {sql_list(CLAIMED), sql_list(TRIED)}


def test_statements_name_no_state_that_there_is_not() -> None:
    others = ('service_health', 'mail_webhook_deliveries')
    about_mail = {
        name: sql for name, sql in statements().items() if not any(word in sql for word in others)
    }
    compared = r"\b(?:mail_)?status(?:, '')?\)? (?:=|<>|IN) \(?((?:'[a-z ]+'(?:, )?)+)"
    named = {
        word
        for sql in about_mail.values()
        for words in re.findall(compared, sql)
        for word in words_in(words)
    }
    assert {'pending', 'sending', 'held'} <= named <= {status.value for status in Status}


@pytest.mark.parametrize('status', Status)
def test_operators_are_told_what_happens_next_in_each_state(status: Status) -> None:
    row = email(status)
    sentence = next_step(row, has_worker=True)
    assert tries_again(row) == (status is Status.PENDING)
    assert (' makes attempt ' in sentence) == (status is Status.PENDING)
    if status in RETRYABLE:
        assert '`python -m ops retry 7`' in sentence
    assert all(reason.what for reason in reasons_of(row, EmailFacts()))


@pytest.mark.parametrize('status', [s for s in Status if s not in RETRYABLE])
def test_operators_are_told_why_an_e_mail_is_not_sent_again(status: Status) -> None:
    assert 'changed it meanwhile' not in why_not(email(status))


@pytest.mark.parametrize('status', OVER_UNSENT)
def test_an_import_tells_of_each_state_in_which_nothing_is_sent_any_more(status: Status) -> None:
    assert status.value in MEANINGS


@pytest.mark.parametrize('reason', DeadReason)
def test_operators_are_told_of_each_dead_reason(reason: DeadReason) -> None:
    assert reason in DEAD


def test_an_adopted_table_has_a_word_for_each_state_of_ours() -> None:
    assert set(SYNONYMS) == set(OURS) == set(Status) - {Status.EXTERNAL}
    assert {status for status, shown in SHOWN_INSTEAD.items() if shown is None} == {
        Status.SENDING,
        Status.HELD,
    }


def test_sets_are_what_the_design_says() -> None:
    assert CLAIMED == ('pending', 'failed', 'uncertain')
    assert set(OVER) >= {'sent', 'expired', 'cancelled'}
    assert set(RETRYABLE) >= {'failed', 'uncertain', 'expired', 'cancelled'}
    assert not {Status.SENDING, Status.SENT} & set(UNSENT)
