"""Abort certificates: what shows a hospital that the sum of a failed attempt stays shut for ever.

A hospital that has sent a masked vector starts nothing from the same model again until it knows that this
vector's sum can never be opened. It knows that when enough hospitals have vowed, each on its disk before it
says so, that they have not unmasked in that attempt and never will: those who could still give shares are
then fewer than the threshold (``Setting.closing``; docs/decisions/0021-one-sum-per-model.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medveil.errors import RemoteProtocolError
from medveil.identity import BadSignature
from privacy.secagg.keys import Context, Setting
from privacy.secagg.messages import Abort, Certificate
from privacy.secagg.node import Party


class NotClosed(RemoteProtocolError):
    """An abort certificate that does not show that a sum stays shut."""

    code = "not-closed"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The abort certificate of an attempt was refused: {reason}.",
            meaning="The attempt's sum might still be opened; this hospital starts nothing from its model.",
            remedy="Tell the consortium's admin; more hospitals must come back and give up the attempt.",
        )


def vow(party: Party) -> Abort:
    """Give up an attempt. The caller has noted it durably, and that it never unmasks in it."""
    return Abort(sender=party.index).signed_by(party.identity, party.setting.context, b"")


def certificate(context: Context, vows: Mapping[int, Abort]) -> Certificate:
    """All that the aggregator has collected."""
    signatures = {i: vows[i].signature for i in sorted(vows)}
    return Certificate(round=context.round, attempt=context.attempt, signatures=signatures)


def check_certificate(found: Certificate, setting: Setting, advertised: Collection[int]) -> None:
    """Whether an attempt's sum stays shut for ever.

    Args:
        setting: of the attempt, as this node itself knows it: its plan, round, attempt, kind and model.
        advertised: U1, as this node was shown it then.
    Guarantees: so many members of U1 have vowed that at most t - 1 can ever give shares of a secret that was
        dealt to U1, if at most c of the roster collude.
    Raises: NotClosed.
    """
    known = set(advertised)
    if len(known) < setting.smallest:
        raise NotClosed(reason="it is not known here who had sent keys")
    if len(known & _vowed(found, setting)) < setting.closing(len(known)):
        raise NotClosed(reason="too few of the hospitals that had sent keys have given it up")


def check_given_up(found: Certificate, setting: Setting) -> None:
    """Whether hospitals held an attempt and gave it up, for a node that was not in it.

    It shows no more than that the attempt failed: at least one honest hospital says so.
    Raises: NotClosed.
    """
    if len(_vowed(found, setting)) < setting.closing(setting.smallest):
        raise NotClosed(reason="too few hospitals have given it up")


def _vowed(found: Certificate, setting: Setting) -> set[int]:
    context = setting.context
    if (found.round, found.attempt) != (context.round, context.attempt):
        raise NotClosed(reason="it is another attempt's")
    for index, signature in found.signatures.items():
        key = setting.roster.get(index)
        if key is None:
            raise NotClosed(reason="it is signed by a hospital that is not on the roster")
        try:
            Abort(sender=index, signature=signature).check(key, context, b"")
        except BadSignature as error:
            raise NotClosed(reason="a signature is not for this plan, round, attempt and model") from error
    return set(found.signatures)
