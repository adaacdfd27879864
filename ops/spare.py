"""What libraries import and these commands never use: a fifth of a command's start (2026-12)."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# redis imports jwt, and with it cryptography, for the tokens of one cloud's servers.
UNUSED = ('jwt',)


def spare_imports() -> None:
    """Put stand-ins in their places: each becomes the module when something of it is used."""
    for name in UNUSED:
        if name not in sys.modules:
            sys.modules[name] = _StandIn(name)


class _StandIn(ModuleType):
    """A module that is not imported yet. importlib's LazyLoader imports at the second `import`."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), attribute)
