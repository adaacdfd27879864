"""The terms of an SPF record (RFC 7208, section 12)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

EXPAND = r'%(?:\{[slodiphv](?:[1-9]\d*)?r?[-.+,/_=]*\}|[%_-])'
LITERAL = r'[!-$&-~]'
NAME = rf"""(?:{EXPAND}|{LITERAL})*
    (?:\.(?:[a-z0-9]*[a-z][a-z0-9]*|[a-z0-9]+-[a-z0-9-]*[a-z0-9])\.?|{EXPAND})"""
# Section 12: what is none of these makes the whole record an error.
TERM = re.compile(
    rf"""(?P<qualifier>[-+?~]?)(?:
        (?P<all>all)
      | (?P<kind>include|exists):(?P<name>{NAME})
      | (?P<host>a|mx)(?::(?P<host_name>{NAME}))?
            (?:/(?P<v4>0|[1-9]\d?))?(?://(?P<v6>0|[1-9]\d\d?|\d))?
      | (?P<ptr>ptr)(?::{NAME})?
      | (?P<ip>ip[46]):(?P<network>[0-9a-f.:]+(?:/(?:0|[1-9]\d*))?)
    )
    | (?P<modifier>redirect|exp)=(?P<target>{NAME})
    | (?!redirect=|exp=)(?P<unknown>[a-z][-a-z0-9_.]*)=(?:{EXPAND}|{LITERAL})*""",
    re.IGNORECASE | re.VERBOSE,
)
LONGEST_TERM = 500
LENGTHS = {4: 32, 6: 128}


class SpfResult(StrEnum):
    """What a receiver concludes (2.6)."""

    NONE = 'none'
    NEUTRAL = 'neutral'
    PASS = 'pass'  # noqa: S105 - the word of RFC 7208
    FAIL = 'fail'
    SOFTFAIL = 'softfail'
    TEMPERROR = 'temperror'
    PERMERROR = 'permerror'


class SpfError(Exception):
    """The evaluation ends here."""

    def __init__(self, result: SpfResult, why: str) -> None:
        self.result = result
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Term:
    """A mechanism or a modifier.

    Attributes:
        text: As it stands in the record, without the qualifier, in lower case.
        name: The domain that it names, macros and all; '' for none.
        lengths: Of the networks of A and AAAA records, by version.
        network: Of ip4 and ip6.
    """

    kind: str
    text: str
    qualifier: str = '+'
    name: str = ''
    lengths: Mapping[int, int] = field(default_factory=lambda: LENGTHS)
    network: IPv4Network | IPv6Network | None = None


def read_terms(domain: str, record: str) -> list[Term]:
    """Return the terms of a record.

    Raises:
        SpfError: one is none, or a modifier stands twice (4.6, 6): all of it counts as an error.
    """
    terms = []
    for text in filter(None, record.split(' ')[1:]):
        found = TERM.fullmatch(text) if len(text) <= LONGEST_TERM else None
        try:
            terms.append(_term(found, text))
        except ValueError as error:
            what = f'{domain} has {text[:100]!r}, which is no term'
            raise SpfError(SpfResult.PERMERROR, what) from error
    modifiers = [term.kind for term in terms if term.kind in {'redirect', 'exp'}]
    if len(set(modifiers)) < len(modifiers):
        raise SpfError(SpfResult.PERMERROR, f'{domain} has {modifiers[0]}= twice')
    return terms


def _term(found: re.Match[str] | None, text: str) -> Term:
    if found is None:
        raise ValueError(text)
    part = found.groupdict()
    qualifier = part['qualifier'] or '+'
    text = text.lower().lstrip('-+?~')
    if part['ip']:
        network = ip_network(part['network'], strict=False)
        if f'ip{network.version}' != part['ip'].lower():
            raise ValueError(text)
        return Term('ip', text, qualifier, network=network)
    if part['host']:
        lengths = {4: int(part['v4'] or 32), 6: int(part['v6'] or 128)}
        if any(lengths[version] > most for version, most in LENGTHS.items()):
            raise ValueError(text)
        return Term(part['host'].lower(), text, qualifier, part['host_name'] or '', lengths)
    kind = part['kind'] or part['modifier'] or part['all'] or part['ptr'] or 'unknown'
    return Term(kind.lower(), text, qualifier, part['name'] or part['target'] or '')
