"""What schemathesis has to know of our own formats, and of what no schema says.

Loaded by `st run`, see test_api_conformance.py.
"""

import re
import string

import schemathesis
from hypothesis import strategies as st

words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
addresses = st.one_of(
    st.builds('{}@{}.example'.format, words, words),
    st.builds('"{} {}" <{}@example.com>'.format, words, words, words),
    st.just('Zoë <zoe@example.com>'),
)
FORMATS = {
    'address-list': st.lists(addresses, min_size=1, max_size=3).map(', '.join),
    'mailbox': addresses,
    'header-field': words.map('X-{}'.format),
    'moment': st.sampled_from([
        '2027-01-24T09:00:00Z', '2027-01-24 09:00:00+01:00', 'in 10 min', 'in 3 days', 'tomorrow',
        'tomorrow at 9am', 'at noon', 'next monday 10:00 Europe/Berlin',
    ]),
    'envelope-address': st.one_of(
        st.builds('{}@{}.example'.format, words, words), st.builds('@{}.example'.format, words)
    ),
    'message-id': st.builds('<{}@{}.example>'.format, words, words),
    'icalendar': st.builds(
        'BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nX-NOTE:{}\r\nEND:VCALENDAR\r\n'.format, words
    ),
    'identifier': st.integers(1, 10**9).map(str),
    'file-name': st.builds('{}.{}'.format, words, st.sampled_from(['pdf', 'txt', 'tar.gz'])),
    'media-type': st.sampled_from(['application/pdf', 'text/plain; charset=utf-8', 'image/png']),
    'content-id': words,
}  # fmt: skip
for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)

# What is sound by itself and refused: what a schema cannot say of an e-mail.
NOT_SAID = re.compile(
    r'`tags` has a name twice'
    r'|there is no template '
    r'|is over before the e-mail could be sent'
    r'|addresses, at most 100 are allowed'
    r'|`one_copy_each`: each recipient sees only himself'
    r'|`(metadata|template_data|template\.variables)`: (must not contain NUL|is not JSON)'
    r'|`headers`: '  # a name twice, and what the outbox makes itself
    r'|`raw`: '  # whether it is a message
    r'|`after` and `before` are given both'
    r'|is (sent|sending|expired|cancelled|failed|held|uncertain|pending)'  # changed no more
    r'|is larger than|larger than'
)


@schemathesis.check
def sound_emails_are_accepted(ctx, response, case):
    """Fail where what the description allows is refused for a reason that it could have named."""
    if not case.operation.path.startswith('/emails') or case.meta is None:
        return
    if not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    message = response.json()['message']
    assert NOT_SAID.search(message), f'refused: {message}; sent: {str(case.body)[:2000]}'
