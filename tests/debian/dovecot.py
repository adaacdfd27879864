"""Debian's Dovecot: the mailbox that reports are read from by IMAP, and logins for Postfix."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev.watchdog import Watchdog
from tests.debian.guest import Guest
from tests.debian.mail_servers import PASSWORD, free_ports, tls_files

DOVECOT = """\
log_path = /dev/stderr
import_environment = TZ LD_LIBRARY_PATH
base_dir = /run/dovecot
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5
auth_failure_delay = 0
auth_username_chars =
mail_location = maildir:/var/mail/%u
mail_uid = vmail
mail_gid = vmail
first_valid_uid = 500
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
  }}
}}
service auth {{
  inet_listener postfix {{
    address = 127.0.0.1
    port = {auth}
  }}
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=vmail gid=vmail home=/var/mail/%u
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running one.

    Attributes:
        auth: The port at which it tells Postfix whether a login is right.
        mail: The folder with a maildir for each user.
    """

    imap: int
    imaps: int
    auth: int
    mail: Path
    certificate: Path
    pid: int


@contextlib.contextmanager
def running_dovecot(directory: Path, watchdog: Watchdog) -> Iterator[Dovecot]:
    """Start it; everybody has a mailbox, and PASSWORD."""
    guest = Guest(directory / 'dovecot', ('dovecot-core', 'dovecot-imapd'))
    ports = free_ports('imap', 'imaps', 'auth')
    certificate, key = tls_files(directory / 'dovecot-tls', 0)
    config = DOVECOT.format(**ports, certificate=certificate, key=key, password=PASSWORD)
    guest.write('etc/dovecot/dovecot.conf', config)
    guest.own(guest.directory / 'var/mail', 'vmail')
    libraries = '/usr/lib/dovecot'
    with guest.running(
        watchdog, [*ports.values()], 'dovecot', '-F', LD_LIBRARY_PATH=libraries
    ) as process:
        yield Dovecot(
            **ports, mail=guest.directory / 'var/mail', certificate=certificate, pid=process.pid
        )
