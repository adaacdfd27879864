"""`ops dns`, asking a DNS server that answers what the test says."""

import asyncio
import json
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from mail.dns_records import RecordState, judge_dkim, judge_spf, make_resolver, read_records
from mail.signing.keys import Algorithm, read_key
from tests.dkim_keys import new_key
from tests.services.ops_desk import closed_port, ops

PEM = new_key(Algorithm.RSA)
KEY = read_key(PEM, 'example.com', 's1')
RELAYS = ['email-smtp.eu-west-1.amazonaws.com']
GOOD = {
    ('example.com.', 'TXT'): ['"verification=1"', '"v=spf1 include:amazonses.com -all"'],
    ('s1._domainkey.example.com.', 'TXT'): [
        ' '.join(f'"{KEY.record_text[at : at + 200]}"' for at in range(0, 500, 200))
    ],
    ('_dmarc.example.com.', 'TXT'): ['"v=DMARC1; p=reject"'],
    ('example.com.', 'MX'): ['10 mx.example.com.'],
    ('amazonses.com.', 'TXT'): ['"v=spf1 ip4:198.51.100.0/24 -all"'],
}


class Server(asyncio.DatagramProtocol):
    def __init__(self, zone):
        self.zone = zone

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if texts := self.zone.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name, 60, 'IN', kind, *texts))
        elif name not in {known for known, _ in self.zone}:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), address)


@asynccontextmanager
async def served(zone):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Server(zone), local_addr=('127.0.0.1', 0)
    )
    yield transport.get_extra_info('sockname')[1]
    transport.close()


async def states(zone, domain='example.com', keys=(KEY,), relays=RELAYS):
    async with served(zone) as port:
        records = await read_records(make_resolver('127.0.0.1', port), domain, keys, relays)
    return {record.purpose: (record.state, record.why) for record in records}


async def test_all_records_of_a_domain_are_found_to_be_fine():
    assert set((await states(GOOD)).values()) == {
        (RecordState.FINE, None), (RecordState.FINE, '1 of 10 lookups'),
    }  # fmt: skip


async def test_what_is_not_there_is_missing():
    assert {state for state, _ in (await states({})).values()} == {RecordState.MISSING}


async def test_policy_of_the_domain_above_holds():
    found = await states(GOOD, 'news.example.com', ())
    assert found['DMARC'] == (RecordState.FINE, 'that of example.com holds')
    assert found['SPF'][0] is RecordState.MISSING


@pytest.mark.parametrize(
    ('name', 'kind', 'texts', 'purpose', 'why'),
    [
        ('example.com.', 'TXT', ['"v=spf1 -all"'], 'SPF', 'include:amazonses.com'),
        ('example.com.', 'TXT', ['"v=spf1 a"', '"v=spf1 mx"'], 'SPF', 'several'),
        ('s1._domainkey.example.com.', 'TXT', ['"v=DKIM1; p="'], 'DKIM', 'revoked'),
        ('s1._domainkey.example.com.', 'TXT', ['"v=DKIM1; p=QUJD"'], 'DKIM', 'another key'),
        ('s1._domainkey.example.com.', 'TXT', ['"k=ed25519; p=QUJD"'], 'DKIM', 'no key for rsa'),
        ('_dmarc.example.com.', 'TXT', ['"v=DMARC1; p=maybe"'], 'DMARC', 'p='),
        ('_dmarc.example.com.', 'TXT', ['"v=DMARC1; p=none"', '"v=DMARC1"'], 'DMARC', 'several'),
        ('example.com.', 'MX', ['0 .'], 'return path', 'null MX'),
    ],
)
async def test_wrong_record_is_named_with_the_reason(name, kind, texts, purpose, why):
    state, said = (await states(GOOD | {(name, kind): texts}))[purpose]
    assert state is RecordState.WRONG
    assert why in said


def spf(text, **zone):
    found = {(f'{name.replace("_", ".")}.', 'TXT'): [f'"{other}"'] for name, other in zone.items()}
    return GOOD | {('example.com.', 'TXT'): [f'"v=spf1 {text}"']} | found


INCLUDES = ' '.join(f'include:n{n}.example' for n in range(11))


@pytest.mark.parametrize(
    ('zone', 'state', 'why'),
    [
        (spf('include:ours.example -all', ours_example='v=spf1 include:amazonses.com -all'),
         'fine', '2 of 10 lookups'),
        (spf('redirect=ours.example', ours_example='v=spf1 include:amazonses.com -all'),
         'fine', '2 of 10 lookups'),
        (spf('include:gone.example include:amazonses.com -all'),
         'wrong', 'gone.example, which has no'),
        (spf('include:amazonses.com ip4:198.51.100.300 -all'), 'wrong', 'ip4:198.51.100.300'),
        (spf('include:amazonses.com +all'), 'wrong', 'everybody'),
        (spf(f'{INCLUDES} -all', **{f'n{n}_example': 'v=spf1 -all' for n in range(11)}),
         'wrong', '11 lookups, and 10 are allowed'),
        (spf('include:example.com -all'), 'wrong', 'more than 40 lookups'),
    ],
)  # fmt: skip
async def test_spf_is_evaluated_with_all_that_it_includes(zone, state, why):
    found, said = (await states(zone))['SPF']
    assert (found, why in said) == (state, True)


@pytest.mark.parametrize(
    ('text', 'state', 'why'),
    [
        ('ip4:192.0.2.0/24 -all', 'fine', '0 of 10 lookups'),
        ('a:mx1.example.com -all', 'fine', '1 of 10 lookups'),
        ('ip4:198.51.100.0/24 ~all', 'wrong', '192.0.2.25 gets softfail'),
    ],
)
async def test_spf_is_evaluated_for_the_addresses_of_a_relay_of_our_own(text, state, why):
    zone = spf(text) | {('mx1.example.com.', 'A'): ['192.0.2.25']}
    for relays in (['mx1.example.com'], ['192.0.2.25']):
        found, said = (await states(zone, relays=relays))['SPF']
        assert (found, why in said) == (state, True)
    zone.pop(('mx1.example.com.', 'A'))
    if 'a:' not in text:
        found, said = (await states(zone, relays=['mx1.example.com']))['SPF']
        assert (found, 'its host has no address' in said) == ('wrong', True)


async def test_silent_server_is_no_error_and_nothing_is_known():
    records = await read_records(
        make_resolver('127.0.0.1', closed_port()), 'example.com', [KEY], RELAYS
    )
    assert {record.state for record in records} == {RecordState.UNKNOWN}


def test_hostile_texts_are_judged_like_any_other():
    for text in ('', ';;;=', 'v=DKIM1; p=' + 'A' * 60_000, '\\200\\255', 'p', '=' * 1000):
        assert judge_dkim(KEY, [text]).state is RecordState.WRONG
        assert judge_spf('example.com', RELAYS, [text]).state is RecordState.MISSING


async def test_command_prints_the_records_and_says_what_is_wrong(env, tmp_path):
    key = tmp_path / 'key.pem'
    key.touch(0o600)
    key.write_bytes(PEM)
    entry = {'domain': 'example.com', 'selector': 's1', 'key_file': str(key)}
    env = env | {'DKIM_KEYS': json.dumps([entry]), 'SMTP_FROM_EMAIL': 'shop@example.com'}
    async with served(GOOD | {('_dmarc.example.com.', 'TXT'): ['"v=spf1"']}) as port:
        said = await ops(env, 'dns', '--nameserver', f'127.0.0.1:{port}')
    assert said.status == 1
    assert 'DMARC: _dmarc.example.com TXT is missing' in said.err
    assert KEY.public in said.out.replace('\n', '')
    nobody = await ops(env, 'dns', '--nameserver', f'127.0.0.1:{closed_port()}', '--json')
    assert nobody.status == 0
    assert {record['state'] for record in nobody.document['records']} == {'unknown'}
