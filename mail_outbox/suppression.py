"""Who gets no mail: the tables `email_suppressions`, and `email_type_suppressions` for one type.

A key is an address as it stands in the envelope, in lower case; '@example.com' stands for everybody
there. Who is on the list is asked again when the e-mail is sent: it may be otherwise by then.
"""

from collections.abc import Iterable, Iterator, Sequence

from mail_outbox.statement import Statement

MAX_TYPE_CHARS = 200  # of a type that has entries
Asked = tuple[str, str | None]  # an address, and the type of the e-mail that it is to get
Found = tuple[str, str | None, str]  # a key, the type that it is about, and the reason

FOUND = Statement("""
SELECT address, NULL AS email_type, reason FROM email_suppressions
WHERE address = ANY({keys}) AND (expires_at IS NULL OR expires_at > now())
UNION ALL
SELECT address, email_type, reason FROM email_type_suppressions
WHERE address = ANY({keys}) AND email_type = ANY({types})
  AND (expires_at IS NULL OR expires_at > now())
""")


def _array(name: str) -> str:
    return f'ARRAY(SELECT json_array_elements_text(CAST({{{name}}} AS json)))'


# Two values and one row, as JSON text: for every driver.
SUPPRESSED = Statement(f"""
SELECT CAST(COALESCE(json_agg(json_build_array(address, email_type, reason)), '[]') AS text)
FROM ({FOUND.written(_array)}) AS found
""")  # noqa: S608 - constants


def keys_and_types(asked: Iterable[Asked]) -> tuple[list[str], list[str]]:
    """Return the values of FOUND."""
    keys: set[str] = set()
    types: set[str] = set()
    for address, email_type in asked:
        keys.update(keys_of(address))
        if email_type:
            types.add(email_type)
    return list(keys), list(types)


def reasons_found(asked: Sequence[Asked], found: Iterable[Found]) -> Iterator[str | None]:
    """Yield why each of those asked for gets no mail; None for who does.

    Args:
        found: Rows of FOUND; they may be about more.
    """
    reasons = {(address, of): reason for address, of, reason in found}
    for address, email_type in asked:
        yield _reason(reasons, address, email_type) if reasons else None


def _reason(
    reasons: dict[tuple[str, str | None], str], address: str, email_type: str | None
) -> str | None:
    """Return the reason for an address before that for its domain, for all mail before a type."""
    for key in keys_of(address):
        if (reason := reasons.get((key, None))) is not None:
            return reason
        if email_type and (reason := reasons.get((key, email_type))) is not None:
            return f'{reason} (of the type {email_type})'
    return None


def keys_of(address: str) -> tuple[str, str, str]:
    """Return what is looked for of an address: itself, what is left of it erased, its domain."""
    lower = address.lower()
    return lower, erased_key(lower), lower[lower.rfind('@') :]


def erased_key(key: str) -> str:
    """Return under which key somebody stays on the list whose address was erased.

    It is a hash without a secret: who has an address can see whether it is meant, and who has none
    can only guess.
    """
    import hashlib  # noqa: PLC0415 - takes 3 ms, and few who queue ask

    return f'sha256-{hashlib.sha256(key.encode()).hexdigest()}@erased.invalid'
