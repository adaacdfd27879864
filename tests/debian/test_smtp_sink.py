"""Every fault that Postfix's smtp-sink can be told to have: what becomes of the e-mail."""

import contextlib
import shlex
from typing import Any

import pytest

from dev.ports import free_port
from dev.processes import Command, spawn
from dev.watchdog import Watchdog
from mail.outcome import Outcome
from mail.relay.options import RelayOptions, Timeouts, Tls
from mail.relay.pool import Relay
from tests.debian.guest import until_open
from tests.unit.scripted_relay import MESSAGE, rendered, send

ACCEPTED, DEFERRED, REJECTED = Outcome.ACCEPTED, Outcome.DEFERRED, Outcome.REJECTED
RELEASED, UNCERTAIN = Outcome.RELEASED, Outcome.UNCERTAIN
LARGE = MESSAGE + (b'x' * 76 + b'\r\n') * 20_000


@pytest.fixture
def start_sink(tmp_path):
    with contextlib.closing(Watchdog()) as watchdog, contextlib.ExitStack() as stack:

        def start(options: str) -> Relay:
            port, log = free_port(), tmp_path / 'sink.out'
            argv = ['/usr/sbin/smtp-sink', '-u', 'nobody', *shlex.split(options)]
            process = spawn(Command([*argv, f'127.0.0.1:{port}', '100']), log, watchdog)
            stack.callback(watchdog.forget, process.pid)
            stack.callback(process.wait)
            stack.callback(process.kill)
            until_open(port, lambda: process.poll() is None, log)
            times: dict[str, Any] = dict.fromkeys(('connect_s', 'command_s', 'body_s'), 20.0)
            options_ = RelayOptions(
                'sink', '127.0.0.1', port, Tls.NONE, timeouts=Timeouts(**times, reply_s=20.0)
            )
            return Relay(options_)

        yield start


FAULTS = [
    # It hangs up without a word.
    ('-q CONNECT', RELEASED), ('-q EHLO', RELEASED),
    # Its sender may be what the server dies of.
    ('-q MAIL', DEFERRED), ('-q RCPT', DEFERRED), ('-q DATA', DEFERRED), ('-q .', UNCERTAIN),
    # 421, wherever it comes, and hangs up.
    *((f'-Q {verb}', RELEASED) for verb in ('CONNECT', 'EHLO', 'MAIL', 'RCPT', 'DATA', '.')),
    # 450.
    ('-r CONNECT', RELEASED), ('-r MAIL', DEFERRED), ('-r RCPT', DEFERRED), ('-r DATA', DEFERRED),
    ('-r .', DEFERRED), ('-r QUIT', ACCEPTED),
    # 500, which is a fault of the connection before MAIL, and of the e-mail from then on.
    ('-f CONNECT', RELEASED), ('-f MAIL', REJECTED), ('-f RCPT', REJECTED), ('-f DATA', REJECTED),
    ('-f .', REJECTED), ('-f QUIT', ACCEPTED),
    ('-f EHLO', ACCEPTED),  # then by HELO
    ('-f EHLO,HELO', RELEASED),
    # Its own words: a rate is none of the e-mail's doing, a full disk is.
    ('-r MAIL -b "450 4.7.1 too many messages from you"', RELEASED),
    ('-r RCPT -b "452 4.3.1 no room"', DEFERRED),
    ('-f RCPT -B "550 5.1.1 no such user"', REJECTED),
    # 550 in the middle of the body; its reset may be faster than its words.
    ('-A 0', (REJECTED, DEFERRED)),
    # Of an older time.
    ('-e', ACCEPTED), ('-p', ACCEPTED), ('-P', ACCEPTED), ('-E', ACCEPTED), ('-8', ACCEPTED),
    # Slow, or with a narrow window.
    ('-w 1', ACCEPTED), ('-p -W RCPT:1', ACCEPTED), ('-H 1 -T 2000', ACCEPTED),
]  # fmt: skip


@pytest.mark.parametrize(('fault', 'outcome'), FAULTS)
async def test_fault_ends_as_it_should(start_sink, fault, outcome):
    relay = start_sink(fault)
    message = LARGE if fault.startswith(('-A', '-H')) else MESSAGE
    delivery = await send(relay, mail=rendered(message=message))
    assert delivery.outcome in (outcome if isinstance(outcome, tuple) else (outcome,)), delivery
    relay.close_idle(older_than_s=0)


@pytest.mark.parametrize('fault', ['-r RSET', '-q RSET', '-Q RSET', '-f RSET'])
async def test_relay_that_cannot_reset_costs_the_next_e_mail_nothing(start_sink, fault):
    relay = start_sink(f'{fault} -p')
    refused = rendered('no address at all')
    assert (await send(relay, mail=refused)).outcome in {REJECTED, ACCEPTED}
    for _ in range(3):
        assert (await send(relay)).outcome is ACCEPTED
    relay.close_idle(older_than_s=0)
