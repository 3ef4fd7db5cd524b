"""Who sits at the keyboard, by the operating system's word."""

from __future__ import annotations

import os
import pwd

from medveil.shown import plain

LONGEST = 60


def local_user() -> str:
    """The user of this process; with the one who used sudo to become it, where there is one.

    The second is what the environment says: it helps an honest hospital to remember, and proves nothing.
    """
    try:
        own = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        own = f"uid {os.getuid()}"
    asked = os.environ.get("SUDO_USER", "")
    return plain(own, LONGEST) + (f" (sudo by {plain(asked, LONGEST)})" if asked and asked != own else "")
