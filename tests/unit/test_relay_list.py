"""RELAYS: more relays than SMTP_HOST and SMTP_BACKUP_HOST name, each with what differs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configuration.relay_list import RelayEntry
from configuration.relays import relay_options, slowest_attempt_s
from configuration.view import view
from mail.outcome import Outcome
from mail.relay.options import Tls
from mail.relay.pool import Relay
from settings import Settings, load_settings
from tests.unit.scripted_relay import ScriptedRelay, send

EU: dict[str, Any] = {'name': 'eu', 'host': 'smtp.eu.example.com'}
US: dict[str, Any] = {'name': 'us', 'host': 'smtp.us.example.com'}

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Set variables, in an otherwise empty environment and a directory without .env."""
    for name in [*os.environ]:
        if name.startswith(('SMTP_', 'RELAYS', 'ROUTES', 'CREDENTIALS_')):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_variables(*relays: Any, **variables: str) -> None:
        if relays:
            monkeypatch.setenv('RELAYS', json.dumps(relays))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def names() -> list[str]:
    return [options.name for options in relay_options(load_settings())]


def refusal() -> str:
    with pytest.raises(SystemExit) as raised:
        load_settings()
    return str(raised.value)


def test_relays_of_the_variables_are_the_first_of_the_list(configure: Configure) -> None:
    assert names() == ['primary']
    configure(SMTP_BACKUP_HOST='backup.example.com')
    assert names() == ['primary', 'backup']
    configure(EU, US, SMTP_HOST='smtp.example.com')
    assert names() == ['primary', 'backup', 'eu', 'us']


def test_default_of_the_first_host_is_no_relay_beside_a_list(configure: Configure) -> None:
    configure(EU, US)
    assert names() == ['eu', 'us']
    configure(SMTP_HOST='localhost')
    assert names() == ['primary', 'eu', 'us']


def test_entry_says_what_differs_and_the_rest_is_as_for_all(configure: Configure) -> None:
    own = {'port': 465, 'max_connections': 5, 'reply_timeout_s': 60, 'ehlo_name': 'eu.example.com'}
    configure(
        EU | own | {'user': 'shop', 'password': 'hunter2', 'auth_mechanisms': 'login, PLAIN'},
        US | {'use_tls': False},
        SMTP_MAX_CONNECTIONS='7',
        SMTP_COMMAND_TIMEOUT_S='11',
        SMTP_EHLO_NAME='mail.example.com',
    )
    eu, us = relay_options(load_settings())
    assert (eu.host, eu.port, eu.tls, eu.max_connections) == (EU['host'], 465, Tls.IMPLICIT, 5)
    assert (eu.username, eu.password, eu.auth_mechanisms) == ('shop', 'hunter2', ('login', 'plain'))
    assert (eu.timeouts.reply_s, eu.timeouts.command_s) == (60, 11)
    assert (us.port, us.tls, us.tls_context, us.max_connections) == (587, Tls.NONE, None, 7)
    assert (us.username, us.timeouts.reply_s) == (None, 600)
    assert (eu.local_hostname, us.local_hostname) == ('eu.example.com', 'mail.example.com')


def test_list_may_go_over_several_lines_of_the_env_file() -> None:
    Path('.env').write_text(
        'RELAYS=\'[\n  {"name": "eu", "host": "smtp.eu.example.com"},\n'
        '  {"name": "us", "host": "smtp.us.example.com"}\n]\'\nSMTP_FROM_NAME=Shop\n'
    )
    assert names() == ['eu', 'us']
    assert load_settings().smtp_from_name == 'Shop'


def test_unclosed_quote_of_a_list_is_still_seen() -> None:
    Path('.env').write_text("RELAYS='[\nSMTP_FROM_NAME='Shop'\n")
    assert '.env: line 1: ' in refusal()


def test_list_may_be_in_a_file(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'relays.json').write_text(json.dumps([EU, US], indent=2))
    configure(RELAYS_FILE=str(tmp_path / 'relays.json'))
    assert names() == ['eu', 'us']


def test_password_may_be_in_a_file_or_a_credential(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'eu').write_text('hunter2\n')
    (tmp_path / 'credentials').mkdir()
    (tmp_path / 'credentials' / 'us').write_text('hunter3')
    configure(
        EU | {'user': 'shop', 'password_file': str(tmp_path / 'eu')},
        US | {'user': 'shop', 'password_file': 'us'},
        CREDENTIALS_DIRECTORY=str(tmp_path / 'credentials'),
    )
    assert [o.password for o in relay_options(load_settings())] == ['hunter2', 'hunter3']


def test_no_password_is_shown(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / 'us').write_text('hunter2')
    configure(
        EU | {'user': 'shop', 'password': 'hunter2'},
        US | {'user': 'shop', 'password_file': str(tmp_path / 'us')},
    )
    shown = view(load_settings())
    assert shown['RELAYS'] == [
        EU | {'user': 'shop', 'password': '***'},
        US | {'user': 'shop', 'password': '***'},
    ]
    assert 'hunter2' not in repr(load_settings())


@pytest.mark.parametrize(
    ('entry', 'reason'),
    [
        (US | {'port': 70000}, 'entry 2 (us): port: '),
        (US | {'pasword': 'hunter2'}, 'entry 2 (us): pasword: no such key; there are '),
        (US | {'user': 'shop'}, 'entry 2 (us): user needs password, or '),
        (US | {'password_file': '/no/such/hunter2.txt'}, 'entry 2 (us): password_file: cannot'),
        (US | {'password_file': 'x', 'password': 'hunter2'}, 'entry 2 (us): password and pass'),
        (US | {'auth_mechanisms': ['ntlm']}, 'entry 2 (us): auth_mechanisms: ntlm: we know only '),
        (US | {'ca_file': '/no/such.pem'}, 'entry 2 (us): ca_file: /no/such.pem is not a file'),
        (US | {'max_connections': 0}, 'entry 2 (us): max_connections: '),
        (US | {'reply_timeout_s': 'hunter2'}, 'entry 2 (us): reply_timeout_s: '),
        (US | {'oauth_token_command': '/no/such'}, 'entry 2 (us): oauth_token_command: its first'),
        ({'name': 'us'}, 'entry 2 (us): host: '),
        ({'host': 'smtp.us.example.com'}, 'entry 2: name: '),
        (US | {'name': 'the us'}, 'entry 2 (the us): name: '),
        (US | {'name': 7}, 'entry 2: name: '),
        ('smtp.us.example.com', 'entry 2: '),
        (EU, 'more than one relay is named eu'),
    ],
)
def test_wrong_entry_is_named_with_its_key_and_never_its_value(
    configure: Configure, entry: Any, reason: str
) -> None:
    configure(EU, entry)
    line = refusal()
    assert line.startswith('settings: ')
    assert f'RELAYS: {reason}' in line
    assert '\n' not in line
    assert 'hunter2' not in line.replace('/no/such/hunter2.txt', '')


@pytest.mark.parametrize('value', ['[{"name": "eu"', 'eu', '{"name": "eu"}', '7', '[' * 100_000])
def test_what_is_no_list_is_refused(configure: Configure, value: str) -> None:
    configure(RELAYS=value)
    assert refusal().startswith('settings: RELAYS: ')
    assert len(refusal()) < 300


def test_name_of_a_relay_that_the_variables_make_is_taken(configure: Configure) -> None:
    configure(EU | {'name': 'primary'})
    assert names() == ['primary']
    configure(SMTP_HOST='localhost')
    assert 'RELAYS: more than one relay is named primary' in refusal()


def test_every_key_is_a_variable_without_its_beginning() -> None:
    assert {f'smtp_{key}' for key in RelayEntry.model_fields} - {'smtp_name'} <= (
        Settings.model_fields.keys()
    )


def test_attempt_on_all_relays_has_its_time(configure: Configure) -> None:
    two_s = slowest_attempt_s(load_settings())
    configure(EU, US, EU | {'name': 'asia', 'reply_timeout_s': 3600})
    assert slowest_attempt_s(load_settings()) == two_s * 1.5 + 3000


async def test_third_relay_takes_what_the_first_two_cannot(configure: Configure) -> None:
    async with (
        ScriptedRelay({'RCPT': '451 4.3.0 later'}) as first,
        ScriptedRelay({'GREETING': '421 4.3.2 closing'}) as second,
        ScriptedRelay() as third,
    ):
        place = {'host': '127.0.0.1', 'use_tls': False}
        configure(
            {'name': 'eu', 'port': third.port} | place,
            SMTP_HOST='127.0.0.1',
            SMTP_PORT=str(first.port),
            SMTP_USE_TLS='false',
            SMTP_BACKUP_HOST='127.0.0.1',
            SMTP_BACKUP_PORT=str(second.port),
            SMTP_BACKUP_USE_TLS='false',
        )
        relays = [Relay(options) for options in relay_options(load_settings())]
        delivery = await send(*relays)
        assert (delivery.outcome, delivery.relay) == (Outcome.ACCEPTED, 'eu')
        assert [len(server.sessions) for server in (first, second, third)] == [1, 1, 1]
        relays[0].close_idle(older_than_s=0)
        relays[2].close_idle(older_than_s=0)
