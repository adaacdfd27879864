"""Which 4xx are about the recipient's domain."""

import pytest

from mail.domain_replies import is_about_domain
from mail.outcome import Reply


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        (450, '4.1.2 <a@example.com>: Recipient address rejected: Domain not found'),
        (451, '4.4.1 connect to mx.example.net[192.0.2.1]:25: Connection timed out'),
        (450, '4.7.1 try again later'),
        (451, '4.7.0 temporarily deferred due to user complaints'),
        (450, 'host mx1.mail.example said: 421 busy'),
        (451, 'Temporary lookup failure: DNS'),
        (452, 'low reputation of your address'),
    ],
)
def test_reply_to_rcpt_that_speaks_of_the_domain(code: int, text: str) -> None:
    assert is_about_domain(Reply(code, text), 'example.com', to_rcpt=True)
    assert not is_about_domain(Reply(code, text), 'example.com')  # it may be about the sender


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        (250, '2.1.5 ok'),
        (550, '5.1.2 example.com not found'),
        (421, '4.4.1 example.com closing'),  # the relay's own
        (450, '4.2.1 mailbox of example.com is busy'),
        (452, '4.2.2 over quota'),
        (450, '4.7.1 Greylisted, please try again in 300 seconds'),
        (451, '4.3.0 mail server temporarily rejected message'),
        (452, '4.3.1 Insufficient system storage'),
        (450, '4.7.1 Error: too much mail from 192.0.2.7'),  # all that we send
        (450, '4.0.0 <a@example.com> later'),
        (451, '4.3.0 for notexample.com and example.com.au and sub.example.com'),
    ],
)
def test_reply_about_something_else(code: int, text: str) -> None:
    assert not is_about_domain(Reply(code, text), 'example.com', to_rcpt=True)


@pytest.mark.parametrize(
    'text', ['4.3.2 example.com takes no mail now', '4.7.1 rate limit for example.com exceeded']
)
def test_reply_that_names_the_domain_is_about_it_whenever_it_comes(text: str) -> None:
    assert is_about_domain(Reply(451, text), 'example.com')
