"""How a notice reaches its receiver: a signed POST that follows no redirect, or an e-mail over TLS.

A webhook's signature stands in ``MedVeil-Notice-Signature``: ``t=SECONDS,v1=HEX``, the HMAC-SHA256 of
``SECONDS.BODY`` under the shared secret. Who checks it refuses a time that is more than five minutes off, and
a second notice of the same ``Idempotency-Key``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import secrets
import smtplib
import ssl
import stat
import time
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

from aggregator.monitoring import Mail, Receiver, Webhook
from aggregator.telling.notices import TEST, Notice
from medveil.errors import BadFile, Error
from medveil.files import replace_durably
from medveil.outgoing import FAILURES, closing_lines, go_straight, is_public, open_client, pinned
from medveil.reachability import proxy_to, why
from medveil.shown import plain

SIGNATURE, ONCE = "MedVeil-Notice-Signature", "Idempotency-Key"
PATIENCE_S = 20.0
LEAST_SECRET = 16
SUBJECTS = {
    "round.waiting": "study {study} waits",
    "study.finished": "study {study} is over",
    "hospital.refused": "a hospital takes no part in study {study}",
    "certificate.ends": "the server's certificate ends soon",
    "attempt.failed": "an attempt of study {study} failed",
    TEST: "a test",
}
UNSEEN = (
    "it is reached through a proxy and this machine cannot look up its name, so nobody here knows whether "
    'that is of a private network; say that it may be with "private": true'
)
PRIVATE = 'it has an address of a private network; allow that with "private": true'


class NotTold(Error):
    """A receiver that did not take a notice."""

    code = "notice-not-taken"

    def __init__(self, *, receiver: str, reason: str) -> None:
        super().__init__(
            what=f"The receiver {receiver} did not take the notice: {reason}.",
            meaning="Rounds do not wait for it. A running aggregator tries again for about half a day.",
            remedy="Check the address, the secret or password and the network, then 'notify test'.",
        )


def name_of(receiver: Receiver) -> str:
    """What a receiver is called in the queue: nothing can be read from it."""
    told = receiver.url if receiver.kind == "webhook" else f"{receiver.server} {' '.join(receiver.to)}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def shown(receiver: Receiver) -> str:
    """As people see it: without the path of a webhook, which may be a secret."""
    if receiver.kind == "webhook":
        return plain(urlsplit(receiver.url).hostname or "?", 100)
    return plain(", ".join(receiver.to), 200)


def make_secret(path: Path) -> str:
    """A new secret, in a file for its owner only. Raises: BadFile if there is a file."""
    if path.exists():
        raise BadFile(name=path.name, problem="it is there already; remove it to make another secret")
    secret = secrets.token_urlsafe(32)
    replace_durably(path, f"{secret}\n".encode(), private=True)
    return secret


def read_secret(path: Path) -> bytes:
    """Raises: BadFile, also if others on this machine may read it."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BadFile(name=path.name, problem="others on this machine may read it: chmod 600")
        secret = path.read_bytes().strip()
    except OSError as error:
        raise BadFile(name=path.name, problem=error.strerror or "it cannot be read") from error
    if len(secret) < LEAST_SECRET:
        raise BadFile(name=path.name, problem=f"a secret has at least {LEAST_SECRET} characters")
    return secret


def signed(secret: bytes, body: bytes, at: int) -> str:
    """The value of the signature's header."""
    return f"t={at},v1={hmac.new(secret, str(at).encode() + b'.' + body, hashlib.sha256).hexdigest()}"


async def deliver(receiver: Receiver, notice: Notice, folder: Path) -> None:
    """Tell one receiver. Raises: NotTold, BadFile, BadProxy."""
    if receiver.kind == "webhook":
        await _post(receiver, notice, read_secret(folder / receiver.secret))
        return
    password = "" if receiver.password is None else read_password(folder / receiver.password)
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            await asyncio.to_thread(_send, receiver, notice, password)
    except (OSError, smtplib.SMTPException, TimeoutError) as error:
        raise NotTold(receiver=shown(receiver), reason=_of_mail(error)) from error


def read_password(path: Path) -> str:
    """Raises: BadFile, also if others on this machine may read it."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BadFile(name=path.name, problem="others on this machine may read it: chmod 600")
        return path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise BadFile(name=path.name, problem="it cannot be read") from error


async def _post(hook: Webhook, notice: Notice, secret: bytes) -> None:
    """Raises: NotTold, BadProxy, BadFile."""
    parts, called = urlsplit(hook.url), shown(hook)
    if parts.scheme == "http" and not hook.private:
        raise NotTold(receiver=called, reason="http:// is for a private network, and it is not called one")
    proxy = proxy_to(hook.url, hook.proxy, file="aggregator.json")
    context = ssl.create_default_context() if hook.authority is None else pinned(hook.authority)
    body = notice.model_dump_json(exclude_defaults=True).encode()
    headers = {
        "Content-Type": "application/json",
        SIGNATURE: signed(secret, body, int(time.time())),
        ONCE: notice.id,
    }
    try:
        async with asyncio.timeout(PATIENCE_S), open_client("", context, proxy) as client:
            request = client.build_request("POST", hook.url, content=body, headers=headers)
            if proxy is None and not await go_straight(request, private=hook.private):
                raise NotTold(receiver=called, reason=PRIVATE)
            if proxy is not None and not hook.private and not (public := await is_public(request)):
                raise NotTold(receiver=called, reason=PRIVATE if public is False else UNSEEN)
            async with closing_lines(request):
                response = await client.send(request, stream=True)
            await response.aclose()  # nothing that it says is of use
    except FAILURES as error:
        raise NotTold(receiver=called, reason=why(error, proxy.shown if proxy else "")) from error
    if not response.is_success:
        moved = " (it sends on elsewhere, which is not followed)" if response.is_redirect else ""
        raise NotTold(receiver=called, reason=f"it answered {response.status_code}{moved}")


def _send(mail: Mail, notice: Notice, password: str) -> None:
    """Raises: OSError, SMTPException."""
    host, _, port = mail.server.rpartition(":")
    context = ssl.create_default_context(cafile=None if mail.authority is None else str(mail.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if mail.tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, int(port), timeout=PATIENCE_S, context=context)
    else:
        server = smtplib.SMTP(host, int(port), timeout=PATIENCE_S)
    with server:
        if mail.tls == "starttls":
            server.starttls(context=context)
        if mail.user:
            server.login(mail.user, password)
        server.send_message(letter(mail, notice))


def letter(mail: Mail, notice: Notice) -> EmailMessage:
    """The e-mail; the same notice has the same Message-ID."""
    told = EmailMessage()
    subject, found = f"MedVeil: {SUBJECTS[notice.event]}", dt.datetime.fromisoformat(notice.time)
    told["Subject"] = plain(subject.format(study=notice.study), 150)
    told["From"], told["To"] = mail.sender, ", ".join(mail.to)
    told["Message-ID"] = f"<{notice.id}@{mail.sender.rpartition('@')[2]}>"
    told["Date"] = format_datetime(found)
    told["Auto-Submitted"] = "auto-generated"
    lines = [notice.text, ""]
    for label, value in (
        ("Consortium", notice.consortium),
        ("Study", notice.study),
        ("Plan", notice.plan[:16]),
        ("Round", "" if notice.round is None else f"{notice.round}, attempt {notice.attempt}"),
        ("Hospitals", ", ".join(notice.hospitals)),
        ("Reason", "" if notice.event == "round.waiting" else notice.reason),  # the text says it in words
        ("Found", f"{found.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"),
    ):
        if value:
            lines.append(f"{label + ':':<12}{plain(value, 2000)}")
    told.set_content("\n".join(lines) + "\n")
    return told


def _of_mail(error: BaseException) -> str:
    """Why, without what the server said: it may repeat names or passwords."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server answered {error.smtp_code}"
    if isinstance(error, smtplib.SMTPException):
        return f"the mail server did not take it ({type(error).__name__})"
    return why(error)
