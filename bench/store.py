"""What was measured: a file for each measure in bench/results/.

Measures may be taken at different times.
"""

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
        profile: The file in bench/results/ that says why a bar is not met, or None.
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


def load(directory: Path) -> dict[str, Result]:
    """Return the results by key; none when nothing was measured yet."""
    results = (
        Result(**json.loads(path.read_text(encoding='utf-8')))
        for path in sorted(directory.glob('*.json'))
    )
    return {result.key: result for result in results}


def keep(directory: Path, result: Result) -> None:
    """Store one result in place of its predecessor."""
    directory.mkdir(exist_ok=True)
    text = json.dumps(_rounded(asdict(result)), indent=1, ensure_ascii=False)
    (directory / f'{result.key}.json').write_text(text + '\n', encoding='utf-8')


def _rounded(value: object) -> object:
    match value:
        case float():
            return float(f'{value:.6g}')
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
    return value
