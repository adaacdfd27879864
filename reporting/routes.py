"""Which route a waiting e-mail takes and why, and whether its domain is slow: as workers tell."""

from collections.abc import Iterator, Mapping

from fleet.registry import WorkerRecord
from fleet.route_record import read_routes
from mail.route_table import Route, Traits, domain_of
from mail_outbox.address_fields import named_senders
from mail_outbox.envelope import Extras, InvalidEmailError
from reporting.blockers import Email, EmailFacts, Reason
from reporting.slow_domains import left_alone
from reporting.wording import counted, length

LONGEST_LIST = 5  # names of one condition


def route_reasons(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    """Yield each route of the e-mail's recipients, and whether a relay of it can be used."""
    worker = next((w for w in facts.workers or () if w.routes), None)
    if worker is None:
        return
    table = read_routes(worker.routes)
    if table is None:
        yield Reason('Its route is one of more than a worker can tell.', 'See ROUTES.')
        return
    recipients = tuple(facts.recipients) or ('',)
    for route, those in table.split(_traits(email, worker), recipients):
        whom = '' if len(those) == len(recipients) else f' for {counted(len(those), "recipient")}'
        yield Reason(f'Its route{whom} is {_name(route)}: it goes by {_chain(route, worker)}.')
        if route is not None and not _usable(route, worker):
            yield Reason(
                'No relay of this route can be used now; it waits, and other mail does not.',
                '`python -m ops relay ls`.',
            )


def slow_domain_reasons(facts: EmailFacts) -> Iterator[Reason]:
    """Yield which of the recipients' domains take nothing just now."""
    slow = {found.domain: found for found in left_alone(facts.workers or ())}
    for domain in dict.fromkeys(map(domain_of, facts.recipients)):
        if (found := slow.get(domain)) is not None:
            yield Reason(
                f'{domain} deferred several e-mails in a row ({found.reason.rstrip(".")}): it is '
                f'left alone for {length(found.left_s)}; other mail goes on.'
            )


def _traits(email: Email, worker: WorkerRecord) -> Traits:
    sender = worker.sender_domain or None
    try:
        named = dict(named_senders(Extras(from_address=email['from_address'])))
        sender = domain_of(named['from_address']) if named else sender
    except InvalidEmailError:
        sender = None
    whose = email['organization_id']
    return Traits(email['email_type'], sender, None if whose is None else str(whose))


def _name(route: Route | None) -> str:
    if route is None:
        return 'the default, as no other matches'
    because = '; '.join(f'{key} is {_listed(values)}' for key, values in route.conditions())
    return f'{route.name} ({because or "all mail that no route before it takes"})'


def _listed(values: list[str]) -> str:
    more = len(values) - LONGEST_LIST
    return ' or '.join(values[:LONGEST_LIST]) + (f' or {more} more' if more > 0 else '')


def _chain(route: Route | None, worker: WorkerRecord) -> str:
    if route is None:
        places: list[Mapping[str, float]] = [{str(r.get('name')): 1.0} for r in worker.relays]
    else:
        places = list(route.chain)
    return ', else by '.join(
        ' and '.join(
            name if len(place) == 1 else f'{name} ({weight:g} of {sum(place.values()):g})'
            for name, weight in place.items()
        )
        for place in places
    )


def _usable(route: Route, worker: WorkerRecord) -> bool:
    ready = {relay.get('name') for relay in worker.relays if relay.get('state') == 'ready'}
    return not ready.isdisjoint(route.relays)
