"""Values and names as SQL has them, for DDL, which takes no parameters."""

from collections.abc import Mapping


def literal(value: str | None) -> str:
    """Return a text as SQL has it, whatever it holds."""
    if value is None:
        return 'NULL'
    quoted = value.replace("'", "''").replace('\\', '\\\\')
    return f"E'{quoted}'" if '\\' in value else f"'{quoted}'"


def quoted(name: str) -> str:
    """Return an identifier as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def case(subject: str, pairs: Mapping[str, str], otherwise: str) -> str:
    """Return an expression that gives a word for a word."""
    whens = ' '.join(
        f'WHEN {literal(key)} THEN {literal(value)}' for key, value in sorted(pairs.items())
    )
    return f'CASE {subject} {whens} ELSE {otherwise} END'
