"""A second worker in a test: like the first but for a few values."""

from dataclasses import fields, replace
from typing import Any

from delivery.assemble import assemble
from delivery.runtime import Runtime
from jobs.send_email import send_claimed

MADE: list[Runtime] = []  # whoever made the first worker ends these, too


def another(runtime: Runtime, **values: Any) -> Runtime:
    """Return a worker with these stores, rules, retention rules or tunables."""

    def changed(part: Any, **more: Any) -> Any:
        own = {field.name for field in fields(part)} & values.keys()
        return replace(part, **{name: values.pop(name) for name in own}, **more)

    retention = changed(runtime.rules.retention)
    made = assemble(
        changed(runtime.stores),
        changed(runtime.rules, retention=retention),
        runtime.signals,
        changed(runtime.tunables),
        runtime.activity,
        send_claimed,
    )
    assert not values
    MADE.append(made)
    return made
