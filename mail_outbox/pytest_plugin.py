"""For an application's tests; pytest finds it by itself once mail-outbox is installed.

    def test_sign_up_welcomes(outbox, client):
        client.post('/sign-ups', params={'address': 'anna@example.com'})
        [welcome] = outbox.to('anna@example.com')
        assert welcome.message['Subject'] == 'Welcome'
        assert 'Good to have you here' in welcome.text

`outbox` needs no server: what is queued on any connection is recorded. `mail_stack` sends for real:
a worker with its servers, out of a checkout of this project.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mail_outbox.checkout_stack import MailStack
    from mail_outbox.recording import RecordedOutbox

CHECKOUT = 'mail_outbox_checkout'


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take where the checkout is that has the worker."""
    what = 'a checkout of the mail worker in which `make setup` was run, for the fixture mail_stack'
    parser.addoption('--mail-outbox-checkout', metavar='DIR', help=what)
    parser.addini(CHECKOUT, what)


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> 'RecordedOutbox':
    """Record what the application queues in this test; nothing reaches a database."""
    from functools import partial  # noqa: PLC0415 - most tests that see this plugin use nothing of it

    from mail_outbox import adapters  # noqa: PLC0415
    from mail_outbox.recording import RecordedOutbox, recording_driver  # noqa: PLC0415

    recorded = RecordedOutbox()
    monkeypatch.setattr(adapters, 'stand_in', partial(recording_driver, recorded))
    return recorded


@pytest.fixture(scope='session')
def _started_mail_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> 'Iterator[MailStack]':
    from mail_outbox.checkout_stack import checkout_at, started  # noqa: PLC0415

    config = request.config
    given = config.getoption('--mail-outbox-checkout') or config.getini(CHECKOUT)
    with started(checkout_at(given), tmp_path_factory.mktemp('mail-stack')) as stack:
        yield stack


@pytest.fixture
def mail_stack(_started_mail_stack: 'MailStack') -> 'MailStack':
    """PostgreSQL, Redis, an SMTP inbox and a worker, started once for all tests.

    `mail_stack.inbox()` has what arrived since this test began.
    """
    _started_mail_stack.begin()
    return _started_mail_stack
