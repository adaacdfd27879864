"""Debian's Exim 4, see mail_servers.py."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dev.watchdog import Watchdog
from tests.debian.guest import ACCOUNTS, Guest
from tests.debian.mail_servers import (
    MAILBOXES,
    PASSWORD,
    PORTS,
    SIZE_LIMIT_BYTES,
    USER,
    MailServer,
    Outside,
    free_ports,
    tls_files,
)

EXIM = """\
primary_hostname = exim.test
log_file_path = /var/log/exim4/%slog
spool_directory = /var/spool/exim4
local_interfaces = {interfaces}
tls_certificate = {certificate}
tls_privatekey = {key}
tls_advertise_hosts = *
auth_advertise_hosts = ${{if def:tls_in_cipher{{*}}{{}}}}
smtputf8_advertise_hosts = ${{if eq{{$received_port}}{{{ascii}}}{{}}{{*}}}}
message_size_limit = {size}
smtp_accept_max_per_connection = ${{if eq{{$received_port}}{{{few}}}{{2}}{{1000}}}}
acl_smtp_mail = from
acl_smtp_rcpt = to
acl_smtp_data = content
allow_utf8_domains = true
never_users =
keep_environment =
queue_run_max = 2
begin acl
from:
  deny condition = ${{if eq{{$received_port}}{{{tls}}}}}
       !encrypted = *
       message = 530 5.7.0 Must issue a STARTTLS command first
  deny condition = ${{if eq{{$received_port}}{{{login}}}}}
       !authenticated = *
       message = 530 5.7.0 Authentication required
  deny senders = spammer@example.com
       message = 550 5.7.1 we take nothing from you
  accept
to:
  deny local_parts = nobody
       message = 550 5.1.1 no such user
  defer local_parts = full
       message = 452 4.2.2 mailbox is full
  accept
content:
  deny condition = ${{if match{{$h_subject:}}{{FORBIDDEN}}}}
       message = 554 5.7.1 content is refused
  accept
begin routers
by_lmtp:
  driver = manualroute
  domains = lmtp.example
  transport = lmtp
  route_list = "* 127.0.0.1"
  self = send
elsewhere:
  driver = manualroute
  domains = ! example.com
  transport = out
  route_list = "reports.example 127.0.0.1::{ingress}; * 127.0.0.1::{refusing}"
  self = send
here:
  driver = accept
  local_parts = {mailboxes}
  transport = mailbox
begin transports
lmtp:
  driver = smtp
  protocol = lmtp
  port = {lmtp}
  allow_localhost
  hosts_try_fastopen =
out:
  driver = smtp
  allow_localhost
  hosts_try_fastopen =
mailbox:
  driver = appendfile
  directory = /var/mail/$local_part_data
  maildir_format
  user = vmail
  group = vmail
  message_prefix =
  message_suffix =
begin retry
* * F,1h,1m
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{password}}}fail}}
  server_set_id = $auth1
"""


@contextlib.contextmanager
def running_exim(directory: Path, watchdog: Watchdog, outside: Outside) -> Iterator[MailServer]:
    """Exim 4, as Debian builds it."""
    guest = Guest(directory / 'exim', ('exim4-daemon-light', 'exim4-base', 'libidn12'))
    ports = free_ports(*PORTS)
    certificate, key = tls_files(directory / 'exim-tls', ACCOUNTS['Debian-exim'])
    text = EXIM.format(
        **ports, certificate=certificate, key=key, size=SIZE_LIMIT_BYTES, user=USER,
        interfaces=' : '.join(f'127.0.0.1.{port}' for port in ports.values()), password=PASSWORD,
        mailboxes=' : '.join(MAILBOXES),
        ingress=outside.ingress, lmtp=outside.lmtp, refusing=outside.refusing,
    )  # fmt: skip
    guest.write('etc/exim4/exim4.conf', text)
    for name in ('var/spool/exim4', 'var/log/exim4'):
        guest.folder(name, 'Debian-exim')
    log = guest.directory / 'var/log/exim4/mainlog'
    with guest.running(watchdog, [*ports.values()], 'exim4', '-bdf', '-q1m'):
        yield MailServer('exim', ports, guest.directory / 'var/mail', certificate, log)
