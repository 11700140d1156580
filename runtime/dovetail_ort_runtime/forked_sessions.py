"""Sessions that a forked process inherits. Their threads stayed with the parent, so the child must never end them."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def outlive_children(session: Any) -> None:
    """Let no child of this process destroy a session: that would wait for its threads to end, and hang.

    The memory is the parent's; a child only keeps its share of it.
    """
    _sessions.add(session)


def _keep_for_ever() -> None:
    for session in tuple(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # also the interpreter's own end must not reach it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)
