"""Why nobody was signed in by a provider. What a provider or a browser sent is not repeated."""

from __future__ import annotations

from medveil.errors import RemoteProtocolError


class ProviderAway(RemoteProtocolError):
    """A provider that does not answer."""

    code = "provider-away"

    def __init__(self, *, provider: str, reason: str) -> None:
        super().__init__(
            what=f"The sign-in service '{provider}' cannot be reached: {reason}.",
            meaning="Nobody was signed in by it. The aggregator itself works, and so do other ways in.",
            remedy="Try again later. An admin gets in by a break-glass account, or by a link of the machine.",
        )
        self.values = {"provider": provider, "reason": reason}


class Unproven(RemoteProtocolError):
    """A provider's answer that does not prove who somebody is."""

    code = "sign-in-unproven"

    def __init__(self, *, provider: str, problem: str) -> None:
        super().__init__(
            what=f"What the sign-in service '{provider}' said proves nothing: {problem}.",
            meaning="Somebody may have tampered with it, or the service is set up otherwise than here.",
            remedy="Sign in again. If it stays, the admin compares both sides' settings "
            "(medveil aggregator people providers).",
        )
        self.values = {"provider": provider, "problem": problem}


class Strayed(RemoteProtocolError):
    """An answer to no question of this browser."""

    code = "sign-in-strayed"

    def __init__(self) -> None:
        super().__init__(
            what="This browser has begun no sign-in to which this would be the answer.",
            meaning="It took longer than ten minutes, was used before, or somebody else began it.",
            remedy="Begin again at /signin, in one window.",
        )


class Denied(RemoteProtocolError):
    """A provider says no."""

    code = "sign-in-denied"

    def __init__(self, *, provider: str, reason: str) -> None:
        super().__init__(
            what=f"The sign-in service '{provider}' did not let you in ({reason}).",
            meaning="It was its decision; here nothing was looked at.",
            remedy="Sign in there with another account, or ask those who run that service.",
        )
        self.values = {"provider": provider, "reason": reason}


class NoRole(RemoteProtocolError):
    """Somebody whom no rule lets in."""

    code = "no-role-here"

    def __init__(self) -> None:
        super().__init__(
            what="This account has no role in this consortium.",
            meaning="The sign-in service has vouched for it, and no rule of the consortium's admin fits it.",
            remedy="Ask the consortium's admin for a role, or sign in with another account.",
        )
