"""What a browser may do with a page of ours, whoever serves it: headers, forms, its language's cookie."""

from __future__ import annotations

from urllib.parse import parse_qsl

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with less, a browser sends a form without its origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
}
LANGUAGE_COOKIE = "medveil-language"
YEAR_S = 365 * 24 * 3600
"""How long a browser keeps it."""
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 20


def fields_of(body: bytes) -> dict[str, str]:
    """A form's fields, by name. Raises: ValueError if these bytes are no form, or one of too many fields."""
    return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
