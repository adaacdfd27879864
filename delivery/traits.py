"""What routes can tell an e-mail by, besides its recipients."""

from db.claimed import Claim
from delivery.tunables import Tunables
from mail.route_table import NO_TRAITS, Traits, domain_of
from mail_outbox.address_fields import named_senders
from mail_outbox.envelope import Email
from mail_outbox.rendered import Rendered


def read_traits(tunables: Tunables, claim: Claim, email: Email, rendered: Rendered) -> Traits:
    """Return an e-mail's traits; nothing is read where there are no routes.

    A message as given tells its sender by the envelope that was made of it, before that gets a
    return path.

    Raises:
        InvalidEmailError: an address is none.
    """
    if not tunables.relays.has_routes:
        return NO_TRAITS
    named = dict(named_senders(email.extras)).get('from_address')
    if named is None:
        is_raw = email.raw_message is not None
        named = rendered.envelope.sender if is_raw else tunables.sender.address
    return Traits(email.email_type, domain_of(named), claim.organization)
