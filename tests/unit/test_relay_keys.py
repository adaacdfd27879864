"""What RELAYS says of one relay: TLS, who we are, from where, how much; and its files."""

import datetime as dt
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from configuration.lists import LARGEST_BYTES
from configuration.relays import relay_options
from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME
from mail.outcome import Outcome
from mail.relay.options import RelayOptions, Tls, make_context
from mail.relay.pool import Relay
from settings import load_settings
from tests.unit.scripted_relay import DROP, START_TLS, ScriptedRelay, send

EU: dict[str, Any] = {'name': 'eu', 'host': '127.0.0.1'}
OFFERED = {
    'EHLO': ['250-relay.test\r\n250 STARTTLS', '250 relay.test'],
    'STARTTLS': ('220 go ahead', START_TLS),
}
Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Give RELAYS one entry, in an otherwise empty environment."""
    for name in [*os.environ]:
        if name.startswith(('SMTP_', 'RELAYS', 'ROUTES', 'CREDENTIALS_')):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_variables(entry: dict[str, Any] | None = None, **variables: str) -> None:
        if entry is not None:
            monkeypatch.setenv('RELAYS', json.dumps([EU | entry]))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def options() -> RelayOptions:
    (only,) = relay_options(load_settings())
    return only


def refusal() -> str:
    with pytest.raises(SystemExit) as raised:
        load_settings()
    return str(raised.value)


@pytest.fixture(scope='module')
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    directory = tmp_path_factory.mktemp('server')
    return server_tls_context(directory), directory / CERTIFICATE_NAME


@pytest.fixture(scope='module')
def client_pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate of ours, its key, both in one file, and the key with a password."""
    directory = tmp_path_factory.mktemp('client')
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'shop')])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )

    def pem(encryption: serialization.KeySerializationEncryption) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    plain = pem(serialization.NoEncryption())
    contents = {
        'certificate': made,
        'key': plain,
        'both': made + plain,
        'locked': pem(serialization.BestAvailableEncryption(b'hunter2')),
    }
    for file, content in contents.items():
        (directory / file).write_bytes(content)
    return {file: directory / file for file in contents}


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [
        ({}, Tls.STARTTLS),
        ({'port': 465}, Tls.IMPLICIT),
        ({'use_tls': False}, Tls.NONE),
        ({'port': 2465, 'tls': 'implicit'}, Tls.IMPLICIT),
        ({'port': 465, 'tls': 'starttls'}, Tls.STARTTLS),
        ({'tls': 'opportunistic'}, Tls.OPPORTUNISTIC),
        ({'tls': 'none'}, Tls.NONE),
    ],
)
def test_tls_is_as_the_entry_says_and_required_without_a_word(
    configure: Configure, entry: dict[str, Any], expected: Tls
) -> None:
    configure(entry)
    assert options().tls is expected
    assert (options().tls_context is None) == (expected is Tls.NONE)


def test_first_two_relays_have_a_tls_policy_by_their_variables(configure: Configure) -> None:
    configure(SMTP_TLS='opportunistic', SMTP_BACKUP_HOST='b', SMTP_BACKUP_TLS='implicit')
    assert [o.tls for o in relay_options(load_settings())] == [Tls.OPPORTUNISTIC, Tls.IMPLICIT]
    configure(SMTP_BACKUP_USE_TLS='true')
    assert 'SMTP_BACKUP_TLS and SMTP_BACKUP_USE_TLS exclude each other' in refusal()


async def test_opportunistic_tls_takes_any_certificate(
    server_tls: tuple[ssl.SSLContext, Path],
) -> None:
    async with ScriptedRelay(OFFERED, tls_context=server_tls[0]) as server:
        context = make_context(None, verify=False)
        relay = server.relay(tls=Tls.OPPORTUNISTIC, tls_context=context)
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        assert server.sessions[0].tls
        relay.close_idle(older_than_s=0)


@pytest.mark.parametrize(
    ('starttls', 'outcome'),
    [
        (None, Outcome.ACCEPTED),
        ('454 4.7.0 not available', Outcome.ACCEPTED),
        (DROP, Outcome.RELEASED),
        ('550 5.7.0 no', Outcome.RELEASED),
    ],
)
async def test_opportunistic_tls_does_without_only_where_it_is_not_offered(
    starttls: str | None, outcome: Outcome
) -> None:
    script: dict[str, Any] = {} if starttls is None else {**OFFERED, 'STARTTLS': starttls}
    async with ScriptedRelay(script) as server:
        context = make_context(None, verify=False)
        relay = server.relay(tls=Tls.OPPORTUNISTIC, tls_context=context)
        assert (await send(relay)).outcome is outcome
        assert ('MAIL' in server.verbs) == (outcome is Outcome.ACCEPTED)
        relay.close_idle(older_than_s=0)


@pytest.mark.parametrize('files', [('certificate', 'key'), ('both', None), (None, None)])
async def test_relay_that_asks_for_our_certificate_gets_it(
    configure: Configure,
    server_tls: tuple[ssl.SSLContext, Path],
    client_pem: dict[str, Path],
    files: tuple[str | None, str | None],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_tls[1], server_tls[1].with_name('key.pem'))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_pem['certificate'])
    async with ScriptedRelay(tls_context=context, tls_at_once=True) as server:
        entry = {'port': server.port, 'tls': 'implicit', 'ca_file': str(server_tls[1])}
        for key, file in zip(('client_certificate_file', 'client_key_file'), files, strict=True):
            if file is not None:
                entry[key] = str(client_pem[file])
        configure(entry)
        relay = Relay(options())
        outcome = (await send(relay)).outcome
        assert outcome is (Outcome.ACCEPTED if files[0] else Outcome.RELEASED)
        relay.close_idle(older_than_s=0)


async def test_connection_comes_from_the_source_address(configure: Configure) -> None:
    async with ScriptedRelay() as server:
        configure({'port': server.port, 'tls': 'none', 'source_address': '127.0.0.3'})
        relay = Relay(options())
        assert (await send(relay)).outcome is Outcome.ACCEPTED
        (session,) = relay._sessions
        assert session._transport.get_extra_info('sockname')[0] == '127.0.0.3'
        relay.close_idle(older_than_s=0)


@pytest.mark.parametrize(
    ('source', 'said'),
    [('::1', 'it has no IPv6 address, which source_address ::1 needs'), ('192.0.2.7', '127.0.0.1')],
)
async def test_source_address_that_is_of_no_use_costs_no_attempt(source: str, said: str) -> None:
    async with ScriptedRelay() as server:
        delivery = await send(server.relay(source_address=source))
        assert delivery.outcome is Outcome.RELEASED
        assert said in (delivery.error or '')


def test_limits_of_a_relay_are_its_own_or_those_of_all(configure: Configure) -> None:
    configure({'max_messages_per_connection': 5}, SMTP_MAX_PER_S='2.5')
    assert (options().limits.max_messages, options().limits.max_per_s) == (5, 2.5)
    configure({'max_per_s': 10})
    assert (options().limits.max_messages, options().limits.max_per_s) == (1000, 10)


def test_list_may_be_in_a_file_that_the_variable_names(
    configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / 'relays.json').write_text(json.dumps([EU | {'port': 26}]))
    configure(RELAYS='relays.json')
    assert options().port == 26


def test_older_name_of_the_list_is_taken_but_not_beside_the_new_one(configure: Configure) -> None:
    configure(SMTP_RELAYS=json.dumps([EU | {'port': 27}]))
    assert options().port == 27
    configure({})
    assert 'RELAYS and SMTP_RELAYS exclude each other' in refusal()


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (None, 'RELAYS: neither a JSON list nor a file that can be read: No such file'),
        (b'[{"name": "eu"', 'RELAYS: no JSON: '),
        (b'\xff\xfe', 'RELAYS: the file is not in UTF-8'),
        (b'[' + b' ' * LARGEST_BYTES + b']', 'RELAYS: neither a JSON list nor a file that can be'),
        (b'[' + b'1' * 5000 + b']', 'RELAYS: no JSON that can be read'),
        (b'{"name": "eu"}', 'RELAYS: must be a list: '),
        (b'[{"name": "eu", "host": 7}]', 'RELAYS: entry 1 (eu): host: '),
    ],
)
def test_file_that_holds_no_list_is_refused_in_one_line(
    configure: Configure, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / 'hunter2').write_bytes(content)
    configure(RELAYS=str(tmp_path / 'hunter2'))
    line = refusal()
    assert line.startswith(f'settings: {said}'), line
    assert '\n' not in line
    assert 'hunter2' not in line


@pytest.mark.parametrize(
    ('entry', 'said'),
    [
        ({'tls': 'required'}, 'tls: '),
        ({'tls': 'none', 'use_tls': True}, 'tls and use_tls exclude each other'),
        ({'host': 'smtp.example.com:587'}, 'host: must be a name or an IP address alone'),
        ({'host': 'smtp://smtp.example.com'}, 'host: must be a name or an IP address alone'),
        ({'host': 'x@smtp.example.com'}, 'host: must be a name or an IP address alone'),
        ({'host': 'smtp.example.com\r\n'}, 'host: must be a name or an IP address alone'),
        ({'host': '[::1]'}, 'host: must be a name or an IP address alone'),
        ({'source_address': 'eth0'}, 'source_address: must be an IP address'),
        ({'max_per_s': 0}, 'max_per_s: '),
        ({'max_per_s': 'NaN'}, 'max_per_s: '),
        ({'max_messages_per_connection': 0}, 'max_messages_per_connection: '),
        ({'client_key_file': 'KEY'}, 'client_key_file needs client_certificate_file'),
        (
            {'client_certificate_file': '/no/such'},
            'client_certificate_file: /no/such: No such file',
        ),
        ({'client_certificate_file': 'CERTIFICATE'}, 'client_certificate_file: '),
        (
            {'client_certificate_file': 'CERTIFICATE', 'client_key_file': 'LOCKED'},
            'its key has a password: give it without',
        ),
    ],
)
def test_wrong_value_is_one_line_with_relay_and_key(
    configure: Configure, client_pem: dict[str, Path], entry: dict[str, Any], said: str
) -> None:
    paths = {file.upper(): str(path) for file, path in client_pem.items()}
    configure({key: paths.get(str(value), value) for key, value in entry.items()})
    line = refusal()
    assert line.startswith('settings: RELAYS: entry 1 (eu): ')
    assert said in line
    assert '\n' not in line


def test_same_settings_make_the_same_relay_and_a_changed_file_another(
    configure: Configure, client_pem: dict[str, Path], tmp_path: Path
) -> None:
    certificate = tmp_path / 'both'
    certificate.write_bytes(client_pem['both'].read_bytes())
    configure({'client_certificate_file': str(certificate), 'user': 'me', 'password': 'hunter2'})
    first = options().made_from
    assert options().made_from == first
    certificate.write_bytes(certificate.read_bytes() + b'\n')
    second = options().made_from
    assert second != first
    configure({'client_certificate_file': str(certificate), 'user': 'me', 'password': 'hunter3'})
    assert options().made_from != second
    assert 'hunter' not in options().made_from
