"""Which refusals say that an address is dead: no e-mail will ever arrive there.

Source: RFC 3463 section 3, RFC 7505 (null MX), and the IANA registry of enhanced status codes.
"""

import re

DEAD_ADDRESS_CODES = frozenset({
    '5.1.1',  # bad destination mailbox address
    '5.1.2',  # bad destination system address
    '5.1.3',  # bad destination mailbox address syntax
    '5.1.6',  # destination mailbox has moved, no forwarding address
    '5.1.10',  # recipient address has null MX
    '5.2.1',  # mailbox disabled, not accepting messages
    '5.4.4',  # unable to route: there is no such domain
})  # fmt: skip
# Codes that say no more than "for good": then the words decide. Exim returns all with 5.0.0.
VAGUE_CODES = frozenset({'5.0.0', '5.1.0'})
DEAD_ADDRESS_WORDS = re.compile(
    r'\b(?:user unknown|unknown user|no such (?:user|mailbox|recipient|address|person)'
    r'|(?:user|mailbox|recipient|address|account) (?:is )?(?:unknown|not found)'
    r'|(?:user|mailbox|recipient|address|account) (?:does not|doesn\'t) exist'
    r'|unrouteable address|no mailbox here by that name|mailbox unavailable)\b',
    re.IGNORECASE,
)
CODE_IN_TEXT = re.compile(r'(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])')


def says_dead_address(enhanced_code: str | None, text: str | None) -> bool:
    """Whether a refusal for good says that the address is dead.

    Args:
        text: What the server said, for codes that say nothing.
    """
    if enhanced_code is not None and enhanced_code not in VAGUE_CODES:
        return enhanced_code in DEAD_ADDRESS_CODES
    return text is not None and DEAD_ADDRESS_WORDS.search(text) is not None


def code_in(text: str) -> str | None:
    """Return the first enhanced status code in what a server said."""
    found = CODE_IN_TEXT.search(text)
    return found[1] if found else None
