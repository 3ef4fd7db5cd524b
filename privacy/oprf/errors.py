"""What may be wrong with what the other side of a blind evaluation sends."""

from __future__ import annotations

from medveil.errors import RemoteProtocolError


class BadElement(RemoteProtocolError):
    """Bytes that are no point of the group, or the one point that hides nothing."""

    code = "bad-element"

    def __init__(self) -> None:
        super().__init__(
            what="A blinded value is no point of the curve P-256, or it is the point at infinity.",
            meaning="Computing with it could give a key away, so nothing was computed with it.",
            remedy="Check that hospital and keeper run the same version of MedVeil; if so, one of them lies.",
        )


class BadEvaluation(RemoteProtocolError):
    """A keeper's answer does not prove that its published key was used."""

    code = "bad-evaluation"

    def __init__(self) -> None:
        super().__init__(
            what="A keeper's answer does not prove that it was made with the keeper's published key.",
            meaning="With another key the same person would get another pseudonym here than elsewhere, and "
            "could count twice. Nothing of the answer was used, and nobody was claimed.",
            remedy="Telephone the keeper: its key must be the one in the consortium's persons file. If so, "
            "somebody on the way, or the keeper, lies.",
        )
