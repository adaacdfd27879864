"""The subject of a message that was given as MIME, as people read it."""

import re

# Of a subject, what is kept in its column for people to see; that of an adopted table may be short.
SHOWN_SUBJECT_CHARS = 255
LONGEST_SUBJECT_CHARS = 4096  # as it is written, encoded
ENCODED_WORD = r'=\?[^?\s]++\?[BbQq]\?[^?\s]*+\?='
# White space between two of them is none (RFC 2047, 6.2).
ENCODED_WORDS = re.compile(rf'({ENCODED_WORD})(?:[ \t]++(?={ENCODED_WORD}))?')
CONTROL_CHARACTERS = re.compile('[\x00-\x1f\x7f-\x9f]+')


def shown_subject(text: str) -> str:
    """Return what a reader shows of a Subject field."""
    shown = ENCODED_WORDS.sub(_decoded, text[:LONGEST_SUBJECT_CHARS])
    return CONTROL_CHARACTERS.sub(' ', shown)[:SHOWN_SUBJECT_CHARS]


def _decoded(word: re.Match[str]) -> str:
    from mail_outbox.address_list import decoded_word  # noqa: PLC0415 - most subjects have none

    try:
        return decoded_word(word[1])
    except ValueError:
        return word[0]
