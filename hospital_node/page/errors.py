"""What the page refuses. Each is shown in the reader's language by its code, and recorded."""

from __future__ import annotations

from typing import ClassVar

from medveil.errors import Error


class PageAddress(Error):
    """The page was to listen where others could reach it."""

    code = "page-address"

    def __init__(self) -> None:
        super().__init__(
            what="The operator's page listens on 127.0.0.1 only.",
            meaning="It was not started. On any other address other machines could try to open it.",
            remedy="Leave --host out. From another machine use a tunnel: ssh -L PORT:127.0.0.1:PORT NODE.",
        )


class PagePort(Error):
    """The port of the page is taken."""

    code = "page-port"

    def __init__(self, *, port: int, reason: str) -> None:
        super().__init__(
            what=f"The operator's page cannot listen on port {port}: {reason}.",
            meaning="It was not started.",
            remedy="Leave --port out and it takes a free one, or name another.",
        )


class WeakPassword(Error):
    """A password for the page that is too short, too long, or not the same twice."""

    code = "weak-password"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"This password was not taken: {problem}.",
            meaning="What was set before stays.",
            remedy="Take 12 to 200 characters, for instance four words of no sentence, and type it twice.",
        )


class PageRefusal(Error):
    """A request to the page that is not answered as it asks."""

    status: ClassVar[int] = 403


class ForeignHost(PageRefusal):
    """A request names another host than this page: so a site elsewhere would reach in (DNS rebinding)."""

    code = "page-foreign-host"
    status = 421

    def __init__(self) -> None:
        super().__init__(
            what="The request names another host than this page.",
            meaning="A web site elsewhere could send it under a name of its own, so it was not looked at.",
            remedy="Open the page by the address that 'medveil node page' printed.",
        )


class CrossSite(PageRefusal):
    """A request that another page has sent."""

    code = "page-cross-site"

    def __init__(self) -> None:
        super().__init__(
            what="The request comes from another page than this one.",
            meaning="Another site may have made this browser send it. Nothing was done.",
            remedy="If it was you: open the page itself and do it there.",
        )


class ForgedForm(PageRefusal):
    """A form that this page did not give to this browser."""

    code = "page-forged-form"

    def __init__(self) -> None:
        super().__init__(
            what="The form was not made by this page for this browser.",
            meaning="It is too old, or somebody has made it up. Nothing was done.",
            remedy="Reload the page and fill it in again.",
        )


class BadForm(PageRefusal):
    """A form that says nothing that could be done."""

    code = "page-bad-form"
    status = 400

    def __init__(self) -> None:
        super().__init__(
            what="The form is too large, or lacks what it must say.",
            meaning="Nothing was done.",
            remedy="Reload the page and fill it in again.",
        )


class SignedOut(PageRefusal):
    """Nobody is signed in, or it was too long ago."""

    code = "page-signed-out"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            what="Nobody is signed in at this browser, or it was too long ago.",
            meaning="Nothing was shown or done.",
            remedy="Sign in with the password, or the newest link in the terminal of 'medveil node page'.",
        )


class UsedLink(PageRefusal):
    """A sign-in link that opens nothing."""

    code = "page-used-link"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            what="This link opens nothing: it was used, or was never given out.",
            meaning="Each link works once. If it was not you: stop the page and see who reads its terminal.",
            remedy="Take the newest link in the terminal of 'medveil node page'.",
        )


class WrongPassword(PageRefusal):
    """The password is wrong, or none is set."""

    code = "page-wrong-password"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            what="The password is wrong.",
            meaning="Nothing was shown.",
            remedy="Type it again, use the link, or set a new one: medveil node page --set-password.",
        )


class TooManyTries(PageRefusal):
    """Too many wrong passwords."""

    code = "page-too-many-tries"
    status = 429

    def __init__(self, *, wait_s: int) -> None:
        super().__init__(
            what="There were too many wrong passwords.",
            meaning=f"For {wait_s} seconds no password is looked at, not even the right one.",
            remedy="Wait, or use the link in the terminal of 'medveil node page'.",
        )
        self.wait_s = wait_s


class NoSuchPart(PageRefusal):
    """An address of the page that leads nowhere."""

    code = "page-no-such-part"
    status = 404

    def __init__(self) -> None:
        super().__init__(
            what="There is nothing at this address.",
            meaning="Nothing was done.",
            remedy="Go to the page's beginning.",
        )


class SomethingElse(PageRefusal):
    """Something went wrong that nobody has thought of."""

    code = "page-failed"
    status = 500

    def __init__(self) -> None:
        super().__init__(
            what="The page could not do this.",
            meaning="It may be half done; the terminal of 'medveil node page' tells the kind of fault.",
            remedy="Reload the page and look. The command at each panel does the same as the page.",
        )
