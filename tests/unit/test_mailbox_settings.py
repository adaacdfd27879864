"""BOUNCE_IMAP_: where the mailbox of reports is, and how a wrong value stops the process."""

import pytest

from settings import load_settings
from tests.unit.test_settings import Configure, configure

__all__ = ['configure']  # a fixture


@pytest.mark.parametrize(
    ('url', 'expected'),
    [
        ('imaps://b%40example.com@mx.example.com', ('mx.example.com', 993, 'implicit', 'INBOX')),
        ('imaps://b%40example.com@mx:1993/', ('mx', 1993, 'implicit', 'INBOX')),
        ('imaps://b@example.com@mx/INBOX/Reports', ('mx', 993, 'implicit', 'INBOX/Reports')),
        ('imap://b%40example.com@mx/R%C3%BCck', ('mx', 143, 'starttls', 'Rück')),
        ('imap://b%40example.com@127.0.0.1/A', ('127.0.0.1', 143, 'none', 'A')),
        ('imaps://b%40example.com@[2001:db8::1]/A', ('2001:db8::1', 993, 'implicit', 'A')),
    ],
)
def test_url_says_where_and_how(configure: Configure, url: str, expected: object) -> None:
    configure(BOUNCE_IMAP_URL=url, BOUNCE_IMAP_PASSWORD='secret')
    place = load_settings().bounce_mailbox
    assert place is not None
    assert (place.host, place.port, place.tls, place.folder) == expected
    assert (place.user, place.password) == ('b@example.com', 'secret')
    assert 'secret' not in repr(place)


@pytest.mark.parametrize(
    ('url', 'said'),
    [
        ('imaps://user:secret@mx/INBOX', 'BOUNCE_IMAP_PASSWORD is for that'),
        ('https://user@mx/INBOX', 'must be imaps://USER@HOST/FOLDER'),
        ('imaps://mx/INBOX', 'must be imaps://USER@HOST/FOLDER'),
        ('bounces@mx', 'must be imaps://USER@HOST/FOLDER'),
        ('imaps://user@mx:99999/INBOX', 'BOUNCE_IMAP_URL'),
        ('imaps://user@mx:imap/INBOX', 'BOUNCE_IMAP_URL'),
        ('imaps://user@mx/INBOX?x=1', 'must end with the folder'),
        ('imaps://user@[::1/INBOX', 'BOUNCE_IMAP_URL'),
    ],
)
def test_wrong_url_stops_the_process_with_its_name_and_no_password(
    configure: Configure, url: str, said: str
) -> None:
    configure(BOUNCE_IMAP_URL=url, BOUNCE_IMAP_PASSWORD='other')
    with pytest.raises(SystemExit) as stop:
        load_settings()
    assert 'BOUNCE_IMAP_URL' in str(stop.value)
    assert said in str(stop.value)
    assert 'secret' not in str(stop.value)


@pytest.mark.parametrize(
    'variables',
    [{}, {'BOUNCE_IMAP_PASSWORD': 'x', 'BOUNCE_IMAP_TOKEN_FILE': '/run/token'}],
)
def test_mailbox_needs_a_password_or_a_token(
    configure: Configure, variables: dict[str, str]
) -> None:
    configure(BOUNCE_IMAP_URL='imaps://b@mx', **variables)
    with pytest.raises(SystemExit, match='BOUNCE_IMAP_PASSWORD, or BOUNCE_IMAP_TOKEN_FILE'):
        load_settings()


def test_without_a_url_there_is_none(configure: Configure) -> None:
    configure(BOUNCE_IMAP_PASSWORD='x')
    assert load_settings().bounce_mailbox is None
