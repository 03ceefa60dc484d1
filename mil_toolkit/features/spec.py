"""The spec of a cache: everything that changes an embedding."""

from typing import Any

Spec = dict[str, Any]
