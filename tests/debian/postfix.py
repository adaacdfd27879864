"""Debian's Postfix with mailboxes, logins by Dovecot, and postgrey, see mail_servers.py."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.postfix import OWNER, running_postfix
from dev.watchdog import Watchdog
from tests.debian.dovecot import running_dovecot
from tests.debian.guest import ACCOUNTS, Guest, until_open
from tests.debian.mail_servers import (
    MAILBOXES,
    PORTS,
    SIZE_LIMIT_BYTES,
    MailServer,
    Outside,
    free_ports,
    tls_files,
)

POSTGREY = ('postgrey', 'libberkeleydb-perl', 'libnetaddr-ip-perl', 'libnet-dns-perl',
            'libnet-server-perl', 'libio-multiplex-perl')  # fmt: skip
MORE = ('virtual unix - n n - - virtual', 'lmtp unix - - n - - lmtp')
OF_PORT = {
    'plain': (),
    'ascii': ('smtputf8_enable=no',),
    'tls': ('smtpd_tls_security_level=encrypt',),
    'login': (
        'smtpd_tls_security_level=encrypt', 'smtpd_sasl_auth_enable=yes',
        'smtpd_relay_restrictions=permit_sasl_authenticated,reject',
    ),
    'few': ('smtpd_client_event_limit_exceptions=', 'smtpd_client_message_rate_limit=2'),
    'grey': ('smtpd_client_restrictions=check_policy_service,inet:127.0.0.1:{postgrey}',),
}  # fmt: skip


@contextlib.contextmanager
def running_postfix_alike(
    directory: Path, watchdog: Watchdog, outside: Outside
) -> Iterator[MailServer]:
    """Postfix; its port `grey` asks postgrey."""
    guest = Guest(directory / 'postgrey', POSTGREY)
    guest.folder('var/lib/postgrey', 'postgrey')
    ports = free_ports(*PORTS, 'grey', 'postgrey')
    postgrey = ports.pop('postgrey')
    certificate, key = tls_files(directory / 'postfix-tls', OWNER)
    mail = guest.directory / 'var/mail'
    with (
        guest.running(
            watchdog, [postgrey], 'postgrey', f'--inet=127.0.0.1:{postgrey}', '--delay=2',
            '--auto-whitelist-clients=0',
        ),
        running_dovecot(directory, watchdog) as dovecot,
    ):  # fmt: skip
        settings = _settings(mail, outside) | {
            'smtpd_tls_cert_file': str(certificate), 'smtpd_tls_key_file': str(key),
            'smtp_tls_security_level': 'may',
            'smtpd_sasl_type': 'dovecot', 'smtpd_sasl_path': f'inet:127.0.0.1:{dovecot.auth}',
        }  # fmt: skip
        services = [_smtpd(name, port, postgrey) for name, port in ports.items()]
        with running_postfix(directory, watchdog, settings, [*services, *MORE]):
            for port in ports.values():
                until_open(port, lambda: True, directory / 'postfix.out')
            yield MailServer('postfix', ports, mail, certificate, directory / 'postfix/maillog')


def _smtpd(name: str, port: int, postgrey: int) -> str:
    options = ' '.join(f'-o {option.format(postgrey=postgrey)}' for option in OF_PORT[name])
    return f'127.0.0.1:{port} inet n - n - - smtpd {options}'


def _settings(mail: Path, outside: Outside) -> dict[str, str]:
    refused = ('{/^nobody@/ 550 5.1.1 no such user}', '{/^full@/ 452 4.2.2 mailbox is full}')
    boxes = [f'{{ {name}@example.com = {name}/ }}' for name in MAILBOXES]
    number, ingress = ACCOUNTS['vmail'], f'smtp:[127.0.0.1]:{outside.ingress}'
    return {
        'myhostname': 'postfix.test', 'smtpd_client_restrictions': '',
        'virtual_mailbox_domains': 'example.com', 'virtual_mailbox_limit': '0',
        'virtual_mailbox_base': str(mail),
        'virtual_mailbox_maps': 'inline:{ ' + ', '.join(boxes) + ' }',
        'virtual_uid_maps': f'static:{number}', 'virtual_gid_maps': f'static:{number}',
        'message_size_limit': str(SIZE_LIMIT_BYTES),
        'smtpd_sender_restrictions': 'check_sender_access inline:'
            '{ {spammer@example.com = 550 5.7.1 we take nothing from you} }',
        'smtpd_recipient_restrictions':
            'check_recipient_access regexp:{ ' + ' '.join(refused) + ' }, permit',
        'header_checks': 'regexp:{ {/^Subject:.*FORBIDDEN/ REJECT 5.7.1 content is refused} }',
        'transport_maps': 'inline:{ {reports.example = ' + ingress + '},'
            ' {lmtp.example = lmtp:inet:127.0.0.1:' + str(outside.lmtp) + '} }',
        'relayhost': f'[127.0.0.1]:{outside.refusing}',
    }  # fmt: skip
