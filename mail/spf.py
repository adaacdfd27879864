"""Who may send for a domain by its SPF record, as receivers evaluate it (RFC 7208, check_host).

DNS is asked by the caller's function, each name once.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network

from mail.spf_terms import SpfError, SpfResult, Term, read_terms

MOST_LOOKUPS = 10  # 4.6.4: include, a, mx, ptr, exists and redirect
MOST_VOID_LOOKUPS = 2  # of these that find nothing
MOST_MX = 10
COUNTED = 40  # how far is counted beyond the limit, to say by how much
LONGEST_NAME = 253

Address = IPv4Address | IPv6Address
# The records of a name and a type; [] for none, None where DNS does not answer.
Ask = Callable[[str, str], Awaitable[list[str] | None]]

MACRO = re.compile(r'%(?:\{([slodiphv])([1-9]\d*)?(r?)([-.+,/_=]*)\}|([%_-]))', re.IGNORECASE)


BY_QUALIFIER = {
    '+': SpfResult.PASS, '-': SpfResult.FAIL, '~': SpfResult.SOFTFAIL, '?': SpfResult.NEUTRAL,
}  # fmt: skip


@dataclass(slots=True)
class SpfVerdict:
    """How an evaluation ended.

    Attributes:
        lookups: How many it took, of which MOST_LOOKUPS are allowed.
        reached: The mechanisms that were looked at, of every record, in lower case.
        why: For an error.
    """

    result: SpfResult = SpfResult.NONE
    lookups: int = 0
    void_lookups: int = 0
    reached: set[str] = field(default_factory=set)
    why: str | None = None


async def check_host(
    ask: Ask, domain: str, address: Address | None, sender: str | None = None
) -> SpfVerdict:
    """Evaluate a domain's record for an address that sends.

    Args:
        address: None: one that matches nothing, so that every term is looked at.
        sender: Of the envelope; by default postmaster of the domain.
    """
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    evaluation = _Evaluation(ask, address, sender or f'postmaster@{domain}')
    verdict = evaluation.verdict
    try:
        verdict.result = await evaluation.check(domain)
    except SpfError as error:
        verdict.result, verdict.why = error.result, str(error)
    if (over := evaluation.over()) is not None:
        verdict.result, verdict.why = SpfResult.PERMERROR, over
    return verdict


class _Evaluation:
    """One address, through all records that its domain's record leads to."""

    def __init__(self, ask: Ask, address: Address | None, sender: str) -> None:
        self.verdict = SpfVerdict()
        self._ask_dns, self._address, self._sender = ask, address, sender
        self._known: dict[tuple[str, str], list[str] | None] = {}

    def over(self) -> str | None:
        """Return what is beyond a limit."""
        verdict = self.verdict
        if verdict.lookups > MOST_LOOKUPS:
            more = 'more than ' if verdict.lookups > COUNTED else ''
            number = min(verdict.lookups, COUNTED)
            return f'{more}{number} lookups, and {MOST_LOOKUPS} are allowed'
        if verdict.void_lookups > MOST_VOID_LOOKUPS:
            many = f'{verdict.void_lookups} lookups find nothing'
            return f'{many}, and {MOST_VOID_LOOKUPS} are allowed'
        return None

    async def check(self, domain: str) -> SpfResult:
        """Return the result of a domain's record; NONE where it has none."""
        found = await self._ask(domain, 'TXT')
        records = [text for text in found if text.lower().split(' ')[0] == 'v=spf1']
        if not records:
            return SpfResult.NONE
        if len(records) > 1:
            raise SpfError(SpfResult.PERMERROR, f'{domain} has several records')
        terms = read_terms(domain, records[0])
        for term in terms:
            if term.kind in {'redirect', 'exp', 'unknown'}:
                continue
            self.verdict.reached.add(term.text)
            if await self._matches(term, domain):
                return BY_QUALIFIER[term.qualifier]
        target = next((term.name for term in terms if term.kind == 'redirect'), None)
        result = None if target is None else await self._follow(target, domain)
        return result or SpfResult.NEUTRAL

    async def _follow(self, target: str, domain: str) -> SpfResult | None:
        """Return the result of another domain's record; None where the address would tell which."""
        self._count()
        name = self._expand(target, domain)
        if name is None:
            return None
        result = await self.check(name)
        if result is SpfResult.NONE:
            raise SpfError(SpfResult.PERMERROR, f'{domain} names {name}, which has no SPF record')
        return result

    async def _matches(self, term: Term, domain: str) -> bool:
        address = self._address
        if term.kind == 'all':
            return True
        if term.network is not None:
            return address is not None and address in term.network
        if term.kind == 'include':
            return await self._follow(term.name, domain) is SpfResult.PASS
        self._count()
        name = self._expand(term.name, domain) if term.name else domain
        if term.kind == 'ptr' or address is None or name is None:  # 5.5: nobody should use it
            return False
        if term.kind == 'exists':
            return bool(await self._ask(name, 'A', counts=True))
        hosts = [name] if term.kind == 'a' else await self._mail_hosts(name)
        return await self._is_at(address, hosts, term)

    async def _mail_hosts(self, name: str) -> list[str]:
        hosts = [mx.split()[-1].rstrip('.') for mx in await self._ask(name, 'MX', counts=True)]
        if len(hosts) > MOST_MX:
            raise SpfError(SpfResult.PERMERROR, f'{name} has more than {MOST_MX} MX')
        return [host for host in hosts if host]

    async def _is_at(self, address: Address, hosts: Iterable[str], term: Term) -> bool:
        """Tell whether an address is one of these hosts', or in its network."""
        kind, length = 'A' if address.version == 4 else 'AAAA', term.lengths[address.version]
        for host in hosts:
            for text in await self._ask(host, kind, counts=term.kind == 'a'):
                if address in ip_network(f'{text}/{length}', strict=False):
                    return True
        return False

    def _count(self) -> None:
        self.verdict.lookups += 1
        if self.verdict.lookups > COUNTED:
            raise SpfError(SpfResult.PERMERROR, 'too many lookups')

    async def _ask(self, name: str, kind: str, *, counts: bool = False) -> list[str]:
        key = (name.lower().rstrip('.'), kind)
        if key not in self._known:
            self._known[key] = await self._ask_dns(*key)
        found = self._known[key]
        if found is None:
            raise SpfError(SpfResult.TEMPERROR, f'DNS does not answer for {name}')
        self.verdict.void_lookups += counts and not found
        return found

    def _expand(self, spec: str, domain: str) -> str | None:
        """Return a name with its macros replaced (7); None where they need an address.

        Raises:
            SpfError: it is no name.
        """
        address = self._address
        if address is None and re.search(r'%\{[ipchrtv]', spec, re.IGNORECASE):
            return None
        name = MACRO.sub(lambda found: _macro(found, domain, self._sender, address), spec).strip(
            '.'
        )
        while len(name) > LONGEST_NAME and '.' in name:  # 7.3: labels on the left go
            name = name.partition('.')[2]
        if any(not 0 < len(part) < 64 for part in name.split('.')):
            raise SpfError(SpfResult.PERMERROR, f'{domain} names {spec[:100]!r}, which is no name')
        return name


def _macro(found: re.Match[str], domain: str, sender: str, address: Address | None) -> str:
    if found[5]:
        return {'%': '%', '_': ' ', '-': '%20'}[found[5]]
    letter, digits, backwards, delimiters = found[1].lower(), found[2], found[3], found[4]
    version = 4 if address is None else address.version
    value = {
        's': sender, 'l': sender.rpartition('@')[0], 'o': sender.rpartition('@')[2], 'd': domain,
        'h': domain, 'p': 'unknown', 'v': 'in-addr' if version == 4 else 'ip6',
        'i': '' if address is None else _dotted(address),
    }.get(letter, '')  # fmt: skip
    parts = re.split(f'[{re.escape(delimiters or ".")}]', value)
    if backwards:
        parts.reverse()
    return '.'.join(parts[-int(digits) :] if digits else parts)


def _dotted(address: Address) -> str:
    if address.version == 4:
        return str(address)
    return '.'.join(address.exploded.replace(':', ''))
