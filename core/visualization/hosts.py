"""What the module that takes pictures has beside them; its class is anybody's."""

from typing import Any, Optional, TypeVar

Kind = TypeVar("Kind")


def own_of(module: Any, name: str, kind: type[Kind]) -> Optional[Kind]:
    """Return what a module has by a name, where it is of a kind: hosts have names of their own."""
    found = getattr(module, name, None)
    return found if isinstance(found, kind) else None
