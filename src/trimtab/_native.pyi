# The extension checks its arguments itself and is called from a few thin wrappers, which carry the types.
from typing import Any

def __getattr__(name: str) -> Any: ...
