"""What is wrong with SMTP ingresses, as reporting.judge reports it."""

import time
from collections.abc import Iterator, Sequence

from fleet.ingresses import ACCEPTED
from reporting.kinds import found
from reporting.problems import Document, Problem
from reporting.wording import length

EXPIRY_WARN_S, EXPIRY_ERROR_S = 21 * 86400.0, 3 * 86400.0


def judge_ingresses(ingresses: Sequence[Document], now: float | None = None) -> Iterator[Problem]:
    """Judge what ingresses tell of themselves; those of another application are not ours to judge.

    Args:
        ingresses: see fleet.ingresses.IngressRecord.
        now: In seconds since 1970.
    """
    for ingress in ingresses:
        if ingress.get('foreign'):
            continue
        where = f'the SMTP ingress {ingress["ingress"]}'
        if ingress['gone_s'] is not None:
            ago = length(ingress['gone_s'])
            yield found('ingress_gone', f'{where} ended without a goodbye {ago} ago')
            continue
        if 0 < ingress['max_connections'] <= ingress['connections']:
            full = f'{ingress["connections"]} of {ingress["max_connections"]} connections'
            yield found('ingress_full', f'{where} has {full}: more are told to come later')
        if expires_at := ingress['certificate_expires_at']:
            left_s = expires_at - (time.time() if now is None else now)
            if left_s < EXPIRY_WARN_S:
                kind = 'ingress_certificate' + ('_ends' if left_s < EXPIRY_ERROR_S else '')
                ends = f'ends in {length(left_s)}' if left_s > 0 else 'has expired'
                yield found(kind, f'the certificate of {where} {ends}')


def ingress_state(ingress: Document) -> str:
    """Return its state in a word or two, for tables."""
    if ingress['gone_s'] is not None:
        return f'gone for {length(ingress["gone_s"])}'
    return 'of another application' if ingress.get('foreign') else 'running'


def refused_by(ingress: Document) -> str:
    """Return what was refused how often, for tables."""
    refused = {name: n for name, n in sorted(ingress['outcomes'].items()) if name != ACCEPTED and n}
    return ', '.join(f'{name} {number}' for name, number in refused.items())
