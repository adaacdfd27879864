"""Values and names as SQL has them, for DDL, which takes no parameters."""


def literal(value: str | None) -> str:
    """Return a text as SQL has it, whatever it holds."""
    if value is None:
        return 'NULL'
    quoted = value.replace("'", "''").replace('\\', '\\\\')
    return f"E'{quoted}'" if '\\' in value else f"'{quoted}'"


def quoted(name: str) -> str:
    """Return an identifier as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
