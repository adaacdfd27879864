"""Parameters of Content-Type and Content-Disposition: `; name=value` (RFC 2045, 5.1).

Beyond ASCII they follow RFC 2231.
"""

import re
from collections.abc import Iterable
from functools import lru_cache, partial
from urllib.parse import quote

PIECE_CHARS = 60
MAX_PLAIN_CHARS = 255
# In quotes, and the same for every reader: no backslash, no run of spaces, nothing that looks like
# an encoded word.
PLAIN_VALUE = re.compile(
    r"[\w!#$%&'*+,./:;<>@()\[\]{}|^`~=-]+( [\w!#$%&'*+,./:;<>@()\[\]{}|^`~=-]+)*", re.ASCII
)
# Of values that need no quotes, those that every reader takes for a token.
TOKEN = re.compile(r'[\w.+-]+', re.ASCII)
TOKEN_VALUE = re.compile(r'[!#-:<-~]{1,255}')
PARAMETER = re.compile(
    r""";?\s*+ (?: ([\w!#$%&'*+.^`{|}~-]++) \s*+ = \s*+
    (?: "((?:[^"\\]|\\.)*+)"? | ([^\s;"]++) )? )? [^;]*+""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


_encoded = lru_cache(maxsize=4096)(partial(quote, safe=''))


def split_parameters(value: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a value such as 'text/csv; charset=utf-8' in parts, without malformed parameters."""
    main, semicolon, rest = value.partition(';')
    found = []
    for part in PARAMETER.finditer(semicolon + rest):
        name, quoted, token = part.groups()
        if name and (quoted is not None or token):
            found.append((name, token or re.sub(r'\\(.)', r'\1', quoted or '')))
    return main.strip(), found


def parameters(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return parameters as they stand in a header, none longer than a line, each name once."""
    return [piece for name, value in dict(found).items() for piece in parameter(name, value)]


def parameter(name: str, value: str) -> list[str]:
    """Return one parameter, in several pieces when it is long (RFC 2231, 3).

    A character is not divided: readers decode each piece by itself.
    """
    if name.endswith('*') and TOKEN_VALUE.fullmatch(value):  # the caller has encoded it
        return [f'{name}={value}']
    if len(value) <= MAX_PLAIN_CHARS and PLAIN_VALUE.fullmatch(value):
        return [
            f'{name}={value}'
            if TOKEN.fullmatch(value) and name != 'filename'
            else f'{name}="{value}"'
        ]
    characters: list[list[str]] = []
    room = 0
    for character in value:
        encoded = _encoded(character)
        if room < len(encoded):
            characters.append([])
            room = PIECE_CHARS
        characters[-1].append(encoded)
        room -= len(encoded)
    pieces = [''.join(piece) for piece in characters]
    if len(pieces) == 1:
        return [f"{name}*=utf-8''{pieces[0]}"]
    return [
        f'{name}*{index}*={"" if index else "utf-8" + chr(39) * 2}{piece}'
        for index, piece in enumerate(pieces)
    ]
