"""What routes can tell an e-mail by, besides its recipients."""

from db.claimed import Claim
from delivery.tunables import Tunables
from mail.route_table import NO_TRAITS, Traits, domain_of
from mail_outbox.address_fields import named_senders
from mail_outbox.envelope import Email


def read_traits(tunables: Tunables, claim: Claim, email: Email) -> Traits:
    """Return an e-mail's traits; nothing is read where there are no routes.

    Raises:
        InvalidEmailError: an address is none.
    """
    if not tunables.relays.has_routes:
        return NO_TRAITS
    named = dict(named_senders(email.extras)).get('from_address')
    if named is None and email.raw_message is None:
        named = tunables.sender.address
    domain = None if named is None else domain_of(named)
    return Traits(email.email_type, domain, claim.organization)
