"""What a keeper and the aggregator say to each other: letters that the aggregator passes on unread."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medveil.messages import Wire

MOST_LETTER_BYTES = 40_000
LETTER_ID = "^[0-9a-f]{32}$"


class Letter(Wire):
    """A hospital's request to a keeper. It does not say whose it is."""

    id: Annotated[str, Field(pattern=LETTER_ID)]
    body: Annotated[bytes, Field(max_length=MOST_LETTER_BYTES)]
