"""Charts as SVG, made on the server: no script draws them, and each has its numbers as a table."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from reporting.history import History, HistoryPoint
from reporting.wording import length

HEIGHT, STEP, GAP = 100.0, 10.0, 2.0  # of the drawing; the style says how large it is shown
# What is stacked, from the bottom, and its colour (web.pages.words.TONES).
STACKED = (('sent', 'fine'), ('deferred', 'look'), ('uncertain', 'way'), ('failed', 'act'))
QUANTILES = ('p50_s', 'p95_s', 'p99_s')

_SVG = Markup(
    '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
    'aria-label="{}">{}</svg>'
)
_BAR = Markup('<rect class="{}" x="{:g}" y="{:.2f}" width="{:g}" height="{:.2f}"/>')
_GROUP = Markup(
    '<g><title>{}</title><rect class="hit" x="{:g}" y="0" width="{:g}" height="{:g}"/>{}</g>'
)
_LINE = Markup('<polyline class="{}" points="{}"/>')


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)


def attempts_chart(history: History) -> Markup:
    """Return stacked bars: what became of the attempts of each step."""
    most = max((point.counts.attempts for point in history.points), default=0) or 1
    bars = [_stack(point, n, most) for n, point in enumerate(history.points)]
    words = f'Attempts a step: at most {most}'
    return _SVG.format(STEP * max(1, len(bars)), HEIGHT, words, _joined(bars))


def _stack(point: HistoryPoint, n: int, most: int) -> Markup:
    counts, bottom, bars = point.counts, HEIGHT, []
    for name, tone in STACKED:
        high = getattr(counts, name) / most * HEIGHT
        if high:
            bottom -= high
            bars.append(_BAR.format(tone, n * STEP, bottom, STEP - GAP, high))
    told = ', '.join(f'{name} {getattr(counts, name)}' for name, _ in STACKED)
    title = f'{point.at:%Y-%m-%d %H:%M}Z: {told}'
    return _GROUP.format(title, n * STEP, STEP, HEIGHT, _joined(bars))


def latency_chart(history: History) -> Markup:
    """Return a line for each of p50, p95 and p99: seconds from being queued to being accepted."""
    most = max((p.latency.p99_s for p in history.points if p.latency), default=0.0) or 1.0
    lines = [
        _LINE.format(name.removesuffix('_s'), points)
        for name in QUANTILES
        for points in _pieces(history.points, name, most)
    ]
    words = f'Seconds from being queued to being accepted: at most {length(most)}'
    return _SVG.format(STEP * max(1, len(history.points)), HEIGHT, words, _joined(lines))


def _pieces(points: Sequence[HistoryPoint], name: str, most: float) -> list[str]:
    """Return the coordinates of a line, in pieces: where nothing was accepted there is none."""
    pieces: list[list[str]] = [[]]
    for n, point in enumerate(points):
        if point.latency is None:
            pieces.append([])
            continue
        high = HEIGHT - getattr(point.latency, name) / most * (HEIGHT - 2) - 1
        pieces[-1] += [f'{n * STEP:g},{high:.2f}', f'{(n + 1) * STEP - GAP:g},{high:.2f}']
    return [' '.join(piece) for piece in pieces if piece]
