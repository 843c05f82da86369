"""How handlers are connected: settings that all of them share."""

from __future__ import annotations

from typing import Any, TypeAlias

Updates: TypeAlias = dict[Any, Any]
"""Component -> its new value, or an update of it."""

HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""No event is an API of its own; the page shows progress itself."""
AT_ONCE: dict[str, Any] = {**HIDDEN, "queue": False}
"""For what must be heard while answers wait, such as a stop."""
