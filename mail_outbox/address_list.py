"""RFC 5322 address lists, read in linear time.

The standard library's header parser takes the square of a field's length (40 s for 32,000
characters) and recurses for nested comments. This reads each character once or twice: into tokens,
whose kinds, a letter each, then spell the address.
"""

import binascii
import quopri
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ATEXT = r'[^\x00-\x20\x7f()<>\[\]:;@\\,."]'  # RFC 5322, 3.2.3, and all beyond ASCII
# Possessive quantifiers (++, *+): what was read is never looked at again.
TOKEN = re.compile(
    rf"""
      (?P<gap>     (?: [ \t] | \( (?: [^()\\] | \\. )*+ \) )++ )  # white space and flat comments
    | (?P<comment> \( )                                                     # one that holds others
    | (?P<quoted>  " (?: [^"\\] | \\. )*+ " )
      # RFC 2047, 5 (3): in a phrase
    | (?P<encoded> =\? [^?\s]++ \? [BbQq] \? [^?\s]*+ \?= (?! [^\s,<(";:] ) )
    | (?P<atom>    {ATEXT}++ )
    | (?P<literal> \[ [^\[\]\\]*+ \] )
    | (?P<special> [<>@.:;,] )
    """,
    re.VERBOSE | re.DOTALL,
)
# Nearly every item, in one step.
PLAIN = re.compile(
    rf'[ \t]*+(?!=\?)({ATEXT}++(?:\.{ATEXT}++)*+)'
    r'@([a-z0-9-]++(?:\.[a-z0-9-]++)*+)[ \t]*+(,|;|\Z)',
    re.IGNORECASE,
)
COMMENT_PART = re.compile(r'[()]|\\.', re.DOTALL)
BLANKS = re.compile(r'[ \t]+')
QUOTED_PAIR = re.compile(r'\\(.)', re.DOTALL)
CONTROL = re.compile(r'[\x00-\x08\x0a-\x1f\x7f]')  # RFC 5322 has no place for them
# By TOKEN's groups, in their order; a special is its own kind.
KINDS = ('', ' ', '(', 'q', 'e', 'a', 'l', '')

SEPARATORS = frozenset(',;:')

DOTTED = r'a(?:\.a)*+'
MAILBOX = re.compile(
    r'(?P<name> ?(?:[aqe][aqe. ]*+)?)'
    rf'(?P<angled>< ?(?P<angled_local>{DOTTED}|q) ?@ ?(?P<angled_domain>{DOTTED}|l) ?> ?)'
    rf'| ?(?P<bare_local>{DOTTED}|q) ?@ ?(?P<bare_domain>{DOTTED}|l) ?'
)
GROUP_NAME = re.compile(r' ?[aqe][aqe. ]*+')

# MIME's charsets. Not all that Python has: reading punycode takes the square of its length.
CHARSET = re.compile(
    r'utf-?(8|16|32)([bl]e)?|(us-)?ascii|iso[-_]8859[-_]\d+|latin-?\d|windows-125\d'
    r'|cp(125\d|437|8\d\d|9\d\d)|koi8-[rut]|gb2312|gbk|gb18030|big5(-?hkscs)?|euc[-_](jp|kr)'
    r'|iso-2022-(jp(-\d)?|kr)|shift[-_]jis|ks_c_5601-1987'
    r'|mac-?roman|tis-620',
    re.IGNORECASE,
)
DOT_ATOM = re.compile(rf'{ATEXT}++(\.{ATEXT}++)*+')


Item = tuple[str, list[str]]  # tokens: their kinds, a letter each, and their texts


class Mailbox(NamedTuple):
    """One address as it is written, unchecked."""

    name: str  # decoded
    address: str  # its local part quoted where it has to be


def read_address_list(text: str) -> Iterator[Mailbox]:
    """Read addresses, with or without names and comments, also in groups; a comma may end the list.

    Raises:
        ValueError: says what is wrong. What came before was yielded.
    """
    if control := CONTROL.search(text):
        raise ValueError(f'contains {control[0]!r}')
    in_group, before = False, ''
    for item, end in _items(text):
        kinds = item[0]
        if end == ':':
            if in_group or before == ';' or not GROUP_NAME.fullmatch(kinds):
                raise ValueError("':' is in the wrong place")
            in_group = True
        elif not kinds.strip():
            # Nothing stands between a group's end and what follows, in an empty group, after the
            # last comma.
            if before not in (';', ':') and not (before == ',' and end in ('', ';')):
                raise ValueError('an address is missing' if before or end else 'no address found')
        elif before == ';':
            raise ValueError("a comma is missing after ';'")
        else:
            yield _mailbox(item)
        if end == ';' and not in_group:
            raise ValueError("';' ends no group")
        in_group = in_group and end != ';'
        before = end
    if in_group:
        raise ValueError("a group's ';' is missing")


def _items(text: str) -> Iterator[tuple[Item, str]]:
    """Yield what stands between separators, each with the one that ends it.

    That is ',', ';', ':' or, at the end, ''.
    """
    kinds: list[str] = []
    texts: list[str] = []
    position, match = 0, TOKEN.match
    while position < len(text):
        if not kinds and (plain := PLAIN.match(text, position)):
            yield ('a@a', [plain[1], '@', plain[2]]), plain[3]
            if not plain[3]:
                return
            position = plain.end()
            continue
        found = match(text, position)
        if found is None:
            raise ValueError(f'{text[position]!r} is in the wrong place, or lacks its other half')
        token, position = found[0], found.end()
        kind = KINDS[found.lastindex or 0] or token
        if kind in SEPARATORS:
            yield (''.join(kinds), texts), token
            kinds, texts = [], []
            continue
        if kind == '(':
            kind, position = ' ', _comment_end(text, position)
        # Comments that touch, or touch white space, are one gap.
        if kind != ' ' or kinds[-1:] != [' ']:
            kinds.append(kind)
            texts.append(token)
    yield (''.join(kinds), texts), ''


def _comment_end(text: str, position: int) -> int:
    """Return where a comment ends whose content begins here."""
    depth = 1
    for part in COMMENT_PART.finditer(text, position):
        depth += (part[0] == '(') - (part[0] == ')')
        if not depth:
            return part.end()
    raise ValueError("a comment's ')' is missing")


def _mailbox(item: Item) -> Mailbox:
    kinds, texts = item
    found = MAILBOX.fullmatch(kinds)
    if found is None:
        raise ValueError(f'{"".join(texts).strip()[:80]!r} is no address')
    spec = 'angled' if found['angled'] else 'bare'
    local, domain = (
        ''.join(texts[slice(*found.span(f'{spec}_{part}'))]) for part in ('local', 'domain')
    )
    if local.startswith('"'):
        local = quoted_local(_unquoted(local))
    name = _phrase(kinds[: found.end('name')], texts) if found['name'] else ''
    return Mailbox(name, f'{local}@{domain}')


def quoted_local(local: str) -> str:
    """Return a local part as it stands in an address.

    One that is no dot-atom, such as 'foo..bar', is quoted.
    """
    if DOT_ATOM.fullmatch(local):
        return local
    return '"' + local.replace('\\', '\\\\').replace('"', '\\"') + '"'


def _unquoted(quoted: str) -> str:
    inner = quoted[1:-1]
    return QUOTED_PAIR.sub(r'\1', inner) if '\\' in inner else inner


def _phrase(kinds: str, texts: Sequence[str]) -> str:
    """Return a phrase as text. White space between two encoded words is none (RFC 2047, 6.2)."""
    words = []
    last = len(kinds) - 1
    for index, (kind, text) in enumerate(zip(kinds, texts, strict=False)):
        if kind == ' ':
            if 0 < index < last and kinds[index - 1 : index + 2] != 'e e':
                words.append(' ')
        elif kind == 'q':
            words.append(BLANKS.sub(' ', _unquoted(text)) if len(text) > 2 else '')
        else:
            words.append(decoded_word(text) if kind == 'e' else text)
    return ''.join(words)


def decoded_word(word: str) -> str:
    """Decode an encoded word (RFC 2047).

    Raises:
        ValueError: its charset is unknown, or its content is not of it.
    """
    _, charset, encoding, text, _ = word.split('?')
    charset = charset.partition('*')[0]  # RFC 2231, 5: a language may follow
    if not CHARSET.fullmatch(charset):
        raise ValueError(f'{charset[:40]!r} is no known charset')
    try:
        if encoding in 'Qq':
            data = quopri.decodestring(text.encode('ascii'), header=True)
        else:
            data = binascii.a2b_base64(text.encode('ascii') + b'=' * (-len(text) % 4))
        return data.decode(charset)
    except (ValueError, LookupError) as error:
        raise ValueError(f'{word[:80]!r} cannot be decoded') from error
