"""Stored templates by their names: what is inserted is the id."""

import json
import re
from collections.abc import Iterable, Sequence

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Ask, Steps

MOST_NAMED = 20  # in an error
MOST_COMPARED = 1000
NUMBER = re.compile('[1-9][0-9]{0,17}')  # fits in 64 bits, and is spelled in one way

# An adopted table may have no column `name`: then it is the one of `without`, which names nothing.
_BY_NAME = """
FROM (SELECT CAST(NULL AS text) AS name) AS without
CROSS JOIN LATERAL (
    SELECT CAST(id AS text) AS id, CAST(name AS text) AS name FROM email_templates
) AS t
"""
TEMPLATE_IDS = Statement(f"""
SELECT CAST(COALESCE(json_agg(json_build_array(t.name, t.id)), '[]') AS text) {_BY_NAME}
WHERE t.name = ANY(ARRAY(SELECT json_array_elements_text(CAST({{names}} AS json))))
""")
TEMPLATE_IDS_SQL = TEMPLATE_IDS.numbered
TEMPLATE_NAMES = Statement(f"""
SELECT CAST(COALESCE(json_agg(name), '[]') AS text) FROM (
    SELECT t.name {_BY_NAME} WHERE t.name IS NOT NULL ORDER BY t.name LIMIT {MOST_COMPARED}
) AS named
""")  # noqa: S608 - constants
TEMPLATE_NAMES_SQL = TEMPLATE_NAMES.numbered


def with_template_ids(rows: Sequence[Row], first_place: int | None) -> Steps[Sequence[Row]]:
    """Return rows of checked_row with the ids of the templates that they name.

    Raises:
        InvalidEmailError: there is none of a name; the message has those there are.
    """
    names = sorted({row['template'] for row in rows if row['template'] is not None})
    [(answer,)] = yield Ask(TEMPLATE_IDS, [{'names': json.dumps(names)}])
    ids = dict(json.loads(answer))
    found: list[Row] = []
    for place, row in enumerate(rows, first_place or 0):
        name = row['template']
        if name is not None and name not in ids:
            [(known,)] = yield Ask(TEMPLATE_NAMES)
            where = '' if first_place is None else f'e-mail {place}: '
            raise InvalidEmailError(f'{where}template: {unknown_template(name, json.loads(known))}')
        found.append(row if name is None else {**row, 'template_id': template_id_of(ids[name])})
    return found


def unknown_template(name: str, known: Iterable[str]) -> str:
    """Say that there is no template of a name, and which there are, the likeliest first."""
    import difflib  # noqa: PLC0415 - of an error

    names = list(known)
    close = difflib.get_close_matches(name, names, n=3)
    said = f'there is no template {name[:80]!r}'
    if not names:
        return f'{said}, and no other'
    if close:
        return f'{said}; is it {" or ".join(map(repr, close))}?'
    more = ' ...' if len(names) > MOST_NAMED else ''
    return f'{said}; there are {", ".join(names[:MOST_NAMED])}{more}'


def template_id_of(text: str) -> int | str:
    """Return an id as its column has it: a number nearly always, and a text such as '007'."""
    return int(text) if NUMBER.fullmatch(text) else text
