"""Which replies are about a recipient's domain: not the relay, not our rate, not one mailbox."""

import re

from mail.outcome import Reply
from mail.relay.learned_rate import CODES_OF_ONE, is_throttling

ADDRESS = re.compile(r'\S*@\S*')
GREYLISTED = re.compile(r'gr[ea]y-?list', re.IGNORECASE)  # about one sender and recipient
# RFC 3463: bad destination system, the network and routing on the way there; and a security or
# policy status, which servers give when they want nothing from us for a while.
CODES = re.compile(r'4\.(1\.2|4\.\d{1,3}|7\.[01])$')
# What relays say of the servers behind them, where the code is one of their own.
WORDS = re.compile(
    r"""domain\ (of\ .{0,60})?(not\ found|does\ not\ (exist|resolve))
    | (host|name)\ (or\ domain\ )?(name\ )?not\ found | \bdns\b | name\ service
    | \bmx\b | (connect|connection)\b.{0,60}\b(timed\ out|refused|lost) | no\ route\ to\ host
    | temporarily\ deferred | reputation | \bhost\ \S+\ said""",
    re.IGNORECASE | re.VERBOSE,
)


def is_about_domain(reply: Reply, domain: str, *, to_rcpt: bool = False) -> bool:
    """Tell whether a 4xx says that all mail to this domain is better not tried just now.

    Args:
        domain: The recipient's, in lower case.
        to_rcpt: Whether it was said to RCPT; else it must name the domain, because it may be about
            the sender or the message.
    """
    if not 400 <= reply.code < 500 or reply.code == 421:
        return False
    enhanced_code, text = reply.enhanced_code or '', ADDRESS.sub('', reply.text).lower()
    if CODES_OF_ONE.match(enhanced_code) or GREYLISTED.search(text):
        return False
    names_it = re.search(rf'(?<![\w.-]){re.escape(domain)}(?![\w-]|\.\w)', text) is not None
    if is_throttling(reply):
        return names_it  # else it is about all we send
    return names_it or (to_rcpt and says_so(enhanced_code, text))


def says_so(enhanced_code: str, text: str) -> bool:
    """Tell whether code or words are of those that speak of a domain."""
    return bool(CODES.match(enhanced_code) or WORDS.search(text))
