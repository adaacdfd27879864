"""Whether two e-mails with one idempotency key say the same."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any


def content_digest(email: Mapping[str, Any], names: Iterable[str]) -> bytes:
    """Return 32 bytes that are the same for the same content.

    Args:
        email: See EmailValues; its address lists are text.
        names: Of what is content. What is None counts as not given: an e-mail queued again after
            an update, which may know of more, says the same.
    """
    import hashlib  # noqa: PLC0415 - takes 3 ms, and few e-mails have a key

    content = {name: email[name] for name in names if email.get(name) is not None}
    try:
        text = json.dumps(content, sort_keys=True, default=_plain)
    except TypeError:  # keys of several types, which only their text puts in an order
        plain = json.loads(json.dumps(content, default=_plain))
        text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        import hashlib  # noqa: PLC0415

        return hashlib.sha256(value).hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
