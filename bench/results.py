"""What was measured, kept beside the document: measures may be taken at different times, the report is put together."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.measures.measure import Data


@dataclass(frozen=True)
class Result:
    """One measure, as it was taken last.

    Attributes:
        at: Date and time, UTC.
        commit: The version of the project, as far as git knows.
        busy: What fraction of the machine other programs used just before.
        facts: Machine and versions, a line each.
        profile: The file beside the document that says why a bar is not met, or None.
    """

    key: str
    at: str
    command: str
    commit: str
    busy: float
    rounds: int
    facts: Sequence[str]
    data: Data
    note: str = ''
    profile: str | None = None


def load(path: Path) -> dict[str, Result]:
    """Return the results by key; none when nothing was measured yet."""
    if not path.exists():
        return {}
    return {
        key: Result(**stored)
        for key, stored in json.loads(path.read_text(encoding='utf-8')).items()
    }


def keep(path: Path, result: Result) -> None:
    """Store one result in place of its predecessor."""
    results = load(path) | {result.key: result}
    stored = {key: asdict(results[key]) for key in sorted(results)}
    text = json.dumps(_rounded(stored), indent=1, ensure_ascii=False)
    path.write_text(text + '\n', encoding='utf-8')


def _rounded(value: object) -> object:
    match value:
        case float():
            return float(f'{value:.6g}')
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
    return value
