"""Refusals that more than one room of the aggregator knows; what HTTP alone knows is in ``web.problems``."""

from __future__ import annotations

from medveil.errors import Error


class NotFound(Error):
    """A thing that is not there, or that the sender may not know of."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__(
            what="There is no such thing here for this sender.",
            meaning="Nothing was changed.",
            remedy="Check the address, and that this hospital is on the plan's roster.",
        )


class NotAllowed(Error):
    """The sender is known but may not do this."""

    code = "not-allowed"

    def __init__(self) -> None:
        super().__init__(
            what="This sender may not do this.",
            meaning="Nothing was changed.",
            remedy="Ask the consortium's admin for a token with the right role.",
        )


class TooLarge(Error):
    """A body over the limit, refused before it was read in full."""

    code = "too-large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            what=f"The request is larger than {limit} bytes.",
            meaning="It was not read.",
            remedy="Send masked vectors in segments of 16 MiB.",
        )


class TooManyRequests(Error):
    """One sender asks for more than its share."""

    code = "too-many-requests"

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__(
            what="This sender has too many requests in hand, or sent too many in a short time.",
            meaning="This one was not looked at; other senders are not affected.",
            remedy="Wait for the time in Retry-After. MedVeil's own clients do so by themselves.",
        )
        self.retry_after_s = retry_after_s


class Overloaded(Error):
    """All senders together ask for more than the aggregator can take."""

    code = "overloaded"
    retry_after_s = 2.0

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator has no room for another request at the moment.",
            meaning="It was not looked at.",
            remedy="Wait for the time in Retry-After. MedVeil's own clients do so by themselves.",
        )


class NotReady(Error):
    """A part that the aggregator needs does not work."""

    code = "not-ready"
    retry_after_s = 5.0

    def __init__(self, *, parts: tuple[str, ...]) -> None:
        super().__init__(
            what=f"These parts do not work: {', '.join(parts)}.",
            meaning="Requests that change something are likely to fail; what was acknowledged is safe.",
            remedy="Check that the disk is neither full nor failing, and read the aggregator's log.",
        )
