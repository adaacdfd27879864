"""What a domain that sends mail has in DNS: SPF, DKIM, DMARC and a return path, asked and judged.

Sources: RFC 7208 (SPF), RFC 6376 (DKIM), RFC 7489 (DMARC), RFC 7505 (null MX).
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from mail.signing.keys import SigningKey
from mail.spf import MOST_LOOKUPS, Ask, check_host
from mail.spf_terms import SpfResult

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

ANSWER_S = 5.0
SPF_S = 30.0  # all that a record leads to
# Relays' host names end so; what their providers want in SPF, by their documentation (2026-11).
PROVIDERS = {
    'amazonaws.com': 'amazonses.com',
    'sendgrid.net': 'sendgrid.net',
    'mailgun.org': 'mailgun.org',
    'postmarkapp.com': 'spf.mtasv.net',
    'mailjet.com': 'spf.mailjet.com',
    'brevo.com': 'spf.brevo.com',
    'google.com': '_spf.google.com',
    'gmail.com': '_spf.google.com',
    'outlook.com': 'spf.protection.outlook.com',
    'office365.com': 'spf.protection.outlook.com',
}


class RecordState(StrEnum):
    """How a record is."""

    FINE = 'fine'
    MISSING = 'missing'
    WRONG = 'wrong'
    UNKNOWN = 'unknown'  # DNS did not answer


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A record that a domain needs.

    Attributes:
        wanted: What it says, or should say in effect.
        found: What DNS answers; None when it does not.
        why: What is wrong with it.
    """

    purpose: str  # SPF, DKIM, DMARC, return path
    name: str
    kind: str  # TXT, MX
    wanted: str
    found: Sequence[str] | None
    state: RecordState
    why: str | None = None


def make_resolver(nameserver: str | None = None, port: int = 53) -> 'Resolver | None':
    """Return what asks DNS; None when this machine names no server.

    Args:
        nameserver: An IP address to ask instead of the machine's own servers.
    """
    from dns.asyncresolver import Resolver  # noqa: PLC0415 - one command asks DNS
    from dns.exception import DNSException  # noqa: PLC0415

    try:
        resolver = Resolver(configure=nameserver is None)
    except (DNSException, OSError):
        return None
    if nameserver is not None:
        resolver.nameservers, resolver.port = [nameserver], port
    resolver.lifetime = ANSWER_S
    return resolver


async def _ask(resolver: 'Resolver | None', name: str, kind: str) -> list[str] | None:
    """Return the records of a name, [] for none, None when DNS does not answer."""
    from dns.exception import DNSException  # noqa: PLC0415
    from dns.resolver import NXDOMAIN, NoAnswer  # noqa: PLC0415

    if resolver is None:
        return None
    try:
        answer = await resolver.resolve(f'{name}.', kind)
    except (NXDOMAIN, NoAnswer):
        return []
    except (DNSException, OSError, ValueError):
        return None
    return sorted(_text(record) for record in answer)


def _text(record: Any) -> str:
    strings = getattr(record, 'strings', None)
    if strings is None:
        return str(record)
    return b''.join(strings).decode('ascii', 'backslashreplace')


async def read_records(
    resolver: 'Resolver | None', domain: str, keys: Iterable[SigningKey], relays: Sequence[str]
) -> list[DnsRecord]:
    """Return the records that a domain needs, each with what DNS says of it.

    Args:
        domain: ASCII, lower case.
        keys: Of this domain.
        relays: The host names of the relays.
    """

    async def spf() -> DnsRecord:
        record = judge_spf(domain, relays, await _ask(resolver, domain, 'TXT'))
        if record.found is None or len(record.found) != 1:
            return record
        return await evaluate_spf(partial(_ask, resolver), record, relays)

    async def dkim(key: SigningKey) -> DnsRecord:
        return judge_dkim(key, await _ask(resolver, key.record_name, 'TXT'))

    asked = (spf(), *map(dkim, keys), _dmarc(resolver, domain), _return_path(resolver, domain))
    return await asyncio.gather(*asked)


def judge_spf(domain: str, relays: Sequence[str], found: list[str] | None) -> DnsRecord:
    """Judge who may send for a domain."""
    mechanisms = [*dict.fromkeys(map(_mechanism, relays))]
    wanted = ' '.join(['v=spf1', *mechanisms, '~all'])
    spf = found and [text for text in found if text.lower().split(' ')[0] == 'v=spf1']
    state, why = RecordState.FINE, None
    if found is None:
        state = RecordState.UNKNOWN
    elif not spf:
        state = RecordState.MISSING
    elif len(spf) > 1:
        state, why = RecordState.WRONG, 'there are several: receivers take none (RFC 7208, 4.5)'
    return DnsRecord('SPF', domain, 'TXT', wanted, spf if found else found, state, why)


async def evaluate_spf(ask: Ask, record: DnsRecord, relays: Sequence[str]) -> DnsRecord:
    """Evaluate the only record of a domain: its limits, and what it says of our relays.

    A relay of a large provider sends from other addresses than its host's: there, what the provider
    wants has to be in the record, or in one that it includes. Any other is looked up, and each of
    its addresses evaluated.
    """
    try:
        async with asyncio.timeout(SPF_S):
            state, why = await _judge_evaluated(ask, record.name, relays)
    except TimeoutError:
        state, why = RecordState.UNKNOWN, f'no end within {SPF_S:g} s'
    return replace(record, state=state, why=why)


async def _judge_evaluated(
    ask: Ask, domain: str, relays: Sequence[str]
) -> tuple[RecordState, str | None]:
    whole = await check_host(ask, domain, None)
    if whole.result is SpfResult.TEMPERROR:
        return RecordState.UNKNOWN, whole.why
    if whole.result is SpfResult.PERMERROR:
        return RecordState.WRONG, f'{whole.why}: receivers reject or ignore it (RFC 7208, 4.6)'
    if whole.result is SpfResult.PASS:
        return RecordState.WRONG, 'it lets everybody send'
    refused = []
    for host in relays:
        mechanism = _mechanism(host)
        if mechanism.lower() in whole.reached:
            continue
        said = None if mechanism.startswith('include:') else await _not_passed(ask, domain, host)
        if mechanism.startswith('include:') or said:
            refused.append(f'{mechanism}{f" ({said})" if said else ""}')
    count = f'{whole.lookups} of {MOST_LOOKUPS} lookups'
    if refused:
        return RecordState.WRONG, f'it does not name {", ".join(dict.fromkeys(refused))}; {count}'
    return RecordState.FINE, count


async def _not_passed(ask: Ask, domain: str, host: str) -> str | None:
    """Return what the record says of a relay's address that it does not let send; None for none."""
    try:
        addresses = [ip_address(host)]
    except ValueError:
        found = [await ask(host, kind) or [] for kind in ('A', 'AAAA')]
        addresses = [ip_address(text) for texts in found for text in texts]
    if not addresses:
        return 'its host has no address'
    for address in addresses:
        verdict = await check_host(ask, domain, address)
        if verdict.result is not SpfResult.PASS:
            return f'{address} gets {verdict.result}'
    return None


def _mechanism(host: str) -> str:
    for ending, included in PROVIDERS.items():
        if host.lower() == ending or host.lower().endswith(f'.{ending}'):
            return f'include:{included}'
    try:
        address = ip_address(host)
    except ValueError:
        return f'a:{host}'
    return f'ip{address.version}:{address}'


def tags_of(text: str) -> dict[str, str]:
    """Return the tags of a record such as v=DKIM1; k=rsa; p=..., without white space in them."""
    pairs = (part.partition('=') for part in text.split(';'))
    return {name.strip(): ''.join(value.split()) for name, _, value in pairs if name.strip()}


def judge_dkim(key: SigningKey, found: list[str] | None) -> DnsRecord:
    """Judge whether receivers find the public key that belongs to ours."""
    state, why = RecordState.FINE, None
    if found is None:
        state = RecordState.UNKNOWN
    elif not found:
        state = RecordState.MISSING
    elif len(found) > 1:
        state, why = RecordState.WRONG, 'there are several: which one counts is undefined'
    else:
        state, why = _judge_key(key, tags_of(found[0]))
    return DnsRecord('DKIM', key.record_name, 'TXT', key.record_text, found, state, why)


def _judge_key(key: SigningKey, tags: dict[str, str]) -> tuple[RecordState, str | None]:
    if tags.get('p') == '':
        return RecordState.WRONG, 'the key is revoked (RFC 6376, 3.6.1)'
    if tags.get('v', 'DKIM1') != 'DKIM1' or tags.get('k', 'rsa') != key.algorithm:
        return RecordState.WRONG, f'it is no key for {key.algorithm}'
    if tags.get('p') != key.public:
        return RecordState.WRONG, 'it is another key: what is signed does not verify'
    if 'y' in tags.get('t', '').split(':'):
        return RecordState.WRONG, 'it says t=y: receivers take the signature for a test'
    return RecordState.FINE, None


async def _dmarc(resolver: 'Resolver | None', domain: str) -> DnsRecord:
    """Judge a domain's policy, or that of the domain above it which holds for it (6.6.3)."""
    name, wanted = f'_dmarc.{domain}', f'v=DMARC1; p=none; rua=mailto:postmaster@{domain}'
    labels = domain.split('.')
    for start in range(max(1, len(labels) - 1)):
        above = '.'.join(labels[start:])
        found = await _ask(resolver, f'_dmarc.{above}', 'TXT')
        if found is None:
            return DnsRecord('DMARC', name, 'TXT', wanted, None, RecordState.UNKNOWN)
        policies = [text for text in found if tags_of(text).get('v', '') == 'DMARC1']
        if len(policies) > 1:
            why = 'there are several: receivers take none (RFC 7489, 6.6.3)'
            return DnsRecord('DMARC', name, 'TXT', wanted, policies, RecordState.WRONG, why)
        if policies:
            is_valid = tags_of(policies[0]).get('p') in {'none', 'quarantine', 'reject'}
            state = RecordState.FINE if is_valid else RecordState.WRONG
            above_holds = f'that of {above} holds' if start else None
            said = above_holds if is_valid else 'its p= is none of none, quarantine, reject'
            return DnsRecord('DMARC', name, 'TXT', wanted, policies, state, said)
    return DnsRecord('DMARC', name, 'TXT', wanted, [], RecordState.MISSING)


async def _return_path(resolver: 'Resolver | None', domain: str) -> DnsRecord:
    """Judge whether what comes back finds a server (RFC 5321, 5.1: MX, else an address)."""
    wanted = 'a server that takes mail to the envelope sender'
    found = await _ask(resolver, domain, 'MX')
    if found is not None and not found:
        kinds = [await _ask(resolver, domain, kind) for kind in ('A', 'AAAA')]
        if any(kinds):
            by_address = 'no MX: bounces go to the address of the domain itself'
            return DnsRecord('return path', domain, 'MX', wanted, [], RecordState.FINE, by_address)
        found = None if None in kinds else []
    state, why = RecordState.FINE, None
    if found is None:
        state = RecordState.UNKNOWN
    elif not found:
        state, why = RecordState.MISSING, 'bounces find no server'
    elif any(mx.split()[-1] == '.' for mx in found):
        state, why = (
            RecordState.WRONG,
            'a null MX: it takes no mail, so bounces are lost (RFC 7505)',
        )
    return DnsRecord('return path', domain, 'MX', wanted, found, state, why)
