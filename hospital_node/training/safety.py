"""What every self-check raises, and nothing else: the checks stand above the training that they try."""

from __future__ import annotations

from medveil.errors import Error


class NotSafe(Error):
    """A self-check failed: this model, loss or engine does not bound what one patient contributes."""

    code = "not-safe"

    def __init__(self, *, check: str, problem: str) -> None:
        super().__init__(
            what=f"The self-check '{check}' failed: {problem}.",
            meaning="The privacy promise would not hold, so private training was not started.",
            remedy="Use a shipped model and task; if this is one, report the fault.",
        )
        self.check = check
