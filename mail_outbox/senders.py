"""Whom an e-mail may be from: the table `allowed_senders` says so.

It is asked when an e-mail is queued, in the caller's transaction, and again by the worker, since a
plain INSERT asks nobody. An e-mail that names no sender is the installation's, and needs no leave.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.statement import Statement


class WantedSender(NamedTuple):
    """An address that an e-mail is to be sent from."""

    field: str  # the one that has it, such as from_address
    address: str
    organization_id: str | None = None


# One value and one row, as JSON text: for every driver, and for one e-mail or many.
UNLISTED = Statement("""
SELECT CAST(json_agg(json_build_array(wanted.organization_id, wanted.address)) AS text)
FROM json_to_recordset(CAST({senders} AS json))
    AS wanted (organization_id text, address text, exactly text, domain text)
WHERE NOT EXISTS (
    SELECT FROM allowed_senders AS a
    WHERE a.pattern IN (wanted.exactly, wanted.domain)
      AND (a.organization_id IS NULL OR a.organization_id = wanted.organization_id))
""")


def wanted_json(wanted: Iterable[WantedSender]) -> str:
    """Return the value {senders} of UNLISTED."""
    return json.dumps(
        [
            {
                'organization_id': sender.organization_id,
                'address': sender.address,
                'exactly': (exactly := sender.address.lower()),
                'domain': exactly[exactly.rfind('@') :],
            }
            for sender in wanted
        ]
    )


def refuse_unlisted(wanted: Iterable[WantedSender], unlisted: str | None) -> None:
    """Refuse the senders of one e-mail that nobody has allowed.

    Args:
        unlisted: What UNLISTED answers; it may be about more e-mails.
    Raises:
        InvalidEmailError: names the field, and the remedy.
    """
    refused = json.loads(unlisted) if unlisted else []
    for sender in wanted:
        if [sender.organization_id, sender.address] in refused:
            more = ''
            if sender.organization_id is not None:
                more = f', with --organization {sender.organization_id} for that one alone'
            raise InvalidEmailError(
                f'{sender.field}: {sender.address} is no allowed sender: '
                f'`python -m ops sender add {sender.address}` makes it one{more}'
            )
