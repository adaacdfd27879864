"""Debian's OpenSMTPD, see mail_servers.py."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dev.watchdog import Watchdog
from tests.debian.guest import Guest
from tests.debian.mail_servers import (
    PASSWORD,
    PORTS,
    SIZE_LIMIT_BYTES,
    USER,
    MailServer,
    Outside,
    free_ports,
    tls_files,
)

OPENSMTPD = """\
pki own cert "{certificate}"
pki own key "{key}"
table logins file:/etc/logins
table boxes {{ "@" = "vmail" }}
filter unknown phase rcpt-to match rcpt-to regex {{ "nobody@" }} reject "550 5.1.1 no such user"
filter later phase rcpt-to match rcpt-to regex {{ "full@" }} reject "452 4.2.2 mailbox is full"
filter barred phase mail-from match mail-from regex {{ "spammer@" }} \\
    reject "550 5.7.1 we take nothing from you"
filter all chain {{ barred, unknown, later }}
smtp max-message-size "{size}"
smtp limit max-mails 20
listen on 127.0.0.1 port {plain} filter all hostname opensmtpd.test
listen on 127.0.0.1 port {ascii} filter all hostname opensmtpd.test
listen on 127.0.0.1 port {few} filter all hostname opensmtpd.test
listen on 127.0.0.1 port {tls} tls-require pki own filter all hostname opensmtpd.test
listen on 127.0.0.1 port {login} tls-require pki own auth <logins> hostname opensmtpd.test
action here maildir "/var/mail/%{{dest.user}}" virtual <boxes>
action reports relay host smtp://127.0.0.1:{ingress}
action bylmtp lmtp "127.0.0.1:{lmtp}" rcpt-to virtual <boxes>
action elsewhere relay host smtp://127.0.0.1:{refusing}
match from any for domain "example.com" action here
match from any for domain "reports.example" action reports
match from any for domain "lmtp.example" action bylmtp
match from any for any action elsewhere
"""


@contextlib.contextmanager
def running_opensmtpd(
    directory: Path, watchdog: Watchdog, outside: Outside
) -> Iterator[MailServer]:
    """OpenSMTPD, which knows no SMTPUTF8 and logs in nobody in the clear."""
    guest = Guest(directory / 'opensmtpd', ('opensmtpd',))
    ports = free_ports(*PORTS)
    certificate, key = tls_files(directory / 'opensmtpd-tls', 0)
    text = OPENSMTPD.format(
        **ports, certificate=certificate, key=key, size=SIZE_LIMIT_BYTES,
        ingress=outside.ingress, lmtp=outside.lmtp, refusing=outside.refusing,
    )  # fmt: skip
    guest.write('etc/smtpd.conf', text)
    hashed = guest.run('openssl', 'passwd', '-6', '-stdin', given=PASSWORD).strip()
    guest.write('etc/logins', f'{USER} {hashed}', owner='opensmtpd', mode=0o400)
    guest.write('etc/mailname', 'opensmtpd.test')
    guest.folder('var/lib/opensmtpd/empty', 'root')
    log = guest.directory.with_suffix('.out')
    with guest.running(watchdog, [*ports.values()], 'smtpd', '-d'):
        yield MailServer('opensmtpd', ports, guest.directory / 'var/mail', certificate, log)
