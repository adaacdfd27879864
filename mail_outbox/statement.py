"""A statement that any driver can run: its values have names, and each driver its placeholders."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
PLACE = re.compile(r'{(\w+)}')  # of a value


class Statement:
    """SQL in which {name} stands for a value.

    Attributes:
        parameters: The names of the values, each once, in their order.
        numbered: The SQL with $1, $2 ... in that order, as asyncpg wants it.
        inserts: Whether it adds rows.
        returns: Whether it answers with rows.
        many: The same for many rows at once, for drivers that would else need a round trip each.
            Its one value `rows` is rows_as_json; it returns a row for each, in their order.
        literals: The names of values that are given as text, of which PostgreSQL makes what their
            columns are.
    """

    def __init__(
        self, template: str, *, many: 'Statement | None' = None, literals: Sequence[str] = ()
    ) -> None:
        self._template = template
        self.parameters = tuple(dict.fromkeys(PLACE.findall(template)))
        self.numbered = self.written(lambda name: f'${self.parameters.index(name) + 1}')
        verb = template.split(maxsplit=1)[0]
        self.inserts = verb == 'INSERT'
        self.returns = verb == 'SELECT' or 'RETURNING' in template
        self.many = many
        self.literals = literals

    def written(self, placeholder: Callable[[str], str]) -> str:
        """Return the SQL with placeholder(name) for each value."""
        return self._template.format_map({name: placeholder(name) for name in self.parameters})

    def in_order(self, row: Row) -> tuple[Any, ...]:
        """Return a row's values in the order of `parameters`."""
        return tuple(map(row.__getitem__, self.parameters))

    def by_name(self, row: Row) -> dict[str, Any]:
        """Return a row's values by their names, and no others."""
        values = {name: row[name] for name in self.parameters}
        for name in self.literals:
            if values[name] is not None:
                values[name] = str(values[name])
        return values


def rows_as_json(rows: Iterable[Row]) -> str:
    """Return rows as json_populate_record reads them."""
    return json.dumps(list(rows), ensure_ascii=False, default=_as_text)


def _as_text(value: Any) -> str:
    return f'\\x{value.hex()}' if isinstance(value, bytes) else str(value)
