"""What a worker sends, verified by npm's mailauth, and by Perl's Mail::DKIM.

Debian's libmail-dkim-perl knows RSA only.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mail.signing.keys import Algorithm, read_key
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.dkim_keys import new_key
from tests.node import INSTALL, NODE

MAILAUTH = Path(__file__).parent / 'mailauth'

# Its keys come from the files that are its arguments, as DNS would answer.
VERIFIER = r"""
use strict; use warnings;
use Net::DNS; use Mail::DKIM::Verifier;
package Zone;
sub new { my ($class, %text) = @_; bless {%text}, $class }
sub errorstring { 'NXDOMAIN' }
sub send {
    my ($self, $name, $type) = @_;
    my $packet = Net::DNS::Packet->new($name, $type);
    if (my $text = $self->{lc $name}) {
        my @parts = $text =~ /(.{1,250})/g;
        my $strings = join ' ', map { qq("$_") } @parts;
        $packet->push(answer => Net::DNS::RR->new("$name. 60 IN TXT $strings"));
    } else { $packet->header->rcode('NXDOMAIN') }
    return $packet;
}
package main;
Mail::DKIM::DNS::resolver(Zone->new(@ARGV));
my $verifier = Mail::DKIM::Verifier->new;
binmode STDIN; local $/; $verifier->PRINT(<STDIN>); $verifier->CLOSE;
print join(' ', $_->algorithm, $_->domain, $_->selector, $_->result_detail), "\n"
    for $verifier->signatures;
"""


def verify(message, keys, command, cwd=None):
    """Return a line for each signature: algorithm, domain, selector, verdict."""
    zone = [part for key in keys for part in (key.record_name, key.record_text)]
    done = subprocess.run(
        [*command, *zone], input=message, stdout=subprocess.PIPE, check=True, cwd=cwd
    )
    return done.stdout.decode().splitlines()


@pytest.fixture
def verifiers(tmp_path):
    for name in ('package.json', 'package-lock.json', 'verify.mjs'):
        shutil.copy(MAILAUTH / name, tmp_path)
    subprocess.run(INSTALL, check=True, cwd=tmp_path)

    def ask(message, keys):
        rsa = [key for key in keys if key.algorithm is Algorithm.RSA]
        perl = verify(message, rsa, ['perl', '-e', VERIFIER])
        return perl[:1], verify(message, keys, [NODE, 'verify.mjs'], tmp_path)

    return ask


@pytest.fixture
def keys(tmp_path):
    """A key of each kind in a file, and DKIM_KEYS that names them."""
    made, entries = [], []
    for algorithm in Algorithm:
        path = tmp_path / f'{algorithm}.pem'
        path.touch(0o600)
        path.write_bytes(new_key(algorithm))
        made.append(read_key(path.read_bytes(), 'example.com', algorithm))
        entries.append({'domain': 'example.com', 'selector': algorithm, 'key_file': str(path)})
    return made, {'DKIM_KEYS': json.dumps(entries), 'SMTP_FROM_EMAIL': 'shop@example.com'}


async def test_others_verify_whatever_a_worker_sends(start_worker, pool, inbox, keys, verifiers):
    made, variables = keys
    await start_worker(**variables).started()
    parts = [
        {'subject': 'Grüße', 'body_text': 'Guten Tag  \n.\n..zwei\n\n\n'},
        {'subject': 'x', 'body_text': 'ä' * 400, 'body_html': '<p>\tä  b</p>'},
        {'subject': 'long', 'body_text': 'a  b \n' * 200_000},
        {'subject': 'x', 'body_text': '', 'headers': {'List-Unsubscribe': '<https://a.example/u>'}},
    ]
    parts.append({'raw': b'From: Raw <shop@example.com>\nSubject: raw\n\n\xc3\xa4 \n\n\n.\n'})
    async with pool.acquire() as conn:
        for more in parts:
            await queue_email(conn, recipient='anna@example.net', **more)

    async def all_sent():
        return len(inbox.accepted()) == len(parts)

    await wait_until(all_sent)
    by_rsa, by_ed25519 = 'rsa-sha256 example.com rsa', 'ed25519-sha256 example.com ed25519'
    for entry in inbox.accepted():
        perl, node = verifiers(inbox.message(entry), made)
        assert perl == [f'{by_rsa} pass']
        assert node == [f'{by_rsa} pass', f'{by_ed25519} pass']
    changed = inbox.message(inbox.accepted()[0]).replace(b'anna@', b'eve@')
    perl, node = verifiers(changed, made)
    assert perl[0].startswith(f'{by_rsa} fail')
    assert node == [f'{by_rsa} fail', f'{by_ed25519} fail']
