"""Formats numbers, times and states for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from scoreline.storage.wording import cut
from scoreline.tasks.backlog.time_left import duration
from scoreline.tasks.django.access import may, project_logs_in
from scoreline.tasks.django.said import text_of

register = template.Library()

_SIGNS = {
    "succeeded": "✓",
    "partial": "◐",
    "failed": "✕",
    "blocked": "▲",
    "cancelled": "■",
    "running": "●",
    "submitted": "○",
    "waiting": "○",
    "loading": "●",
    "loaded": "✓",
    "missed": "✕",
    "refused": "✕",
    "late": "▲",
    "skipped": "■",
    "superseded": "■",
    "good": "✓",
    "bad": "✕",
    "off": "■",
    "new": "○",
    "latest": "✓",
    "accepted": "✓",
    "withdrawn": "■",
    "warn": "▲",
    "block": "✕",
}
_WORDS = {"bad": "attention", "off": "paused", "warn": "warns", "block": "blocks"}
_KB, _MB, _GB = 1 << 10, 1 << 20, 1 << 30


@register.filter
def number(value: Any) -> str:
    """Format a whole number with commas.

    >>> number(1234567), number(None)
    ('1,234,567', '')
    """
    return "" if value is None else f"{value:,}"


@register.filter
def size(value: int) -> str:
    """Format a number of bytes.

    >>> size(500), size(1536), size(3 << 30)
    ('500 B', '1.5 KiB', '3.0 GiB')
    """
    for unit, name in ((_GB, "GiB"), (_MB, "MiB"), (_KB, "KiB")):
        if value >= unit:
            return f"{value / unit:,.1f} {name}"
    return f"{value} B"


@register.filter
def seconds(value: float | None) -> str:
    """Format a duration."""
    return "" if value is None else duration(value)


@register.filter
def percent(value: float) -> str:
    """Format a share.

    >>> percent(0.4267), percent(1.0)
    ('42%', '100%')
    """
    return f"{int(value * 100)}%"


@register.filter
def when(value: datetime | str | None) -> SafeString | str:
    """Format a time to the minute, in UTC; a schedule's own times keep their zone."""
    if not value:
        return ""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    zone = "UTC" if at.utcoffset() is not None and at.tzname() in ("UTC", "UTC+00:00") else at.tzname()
    return format_html('<time datetime="{}">{} {}</time>', at.isoformat(), f"{at:%Y-%m-%d %H:%M}", zone)


@register.filter
def state(value: str) -> SafeString:
    """Format a state as a sign and a word, so that it can be told without its colour."""
    kind = value if value in _SIGNS else "unknown"
    return format_html(
        '<span class="state state-{}"><span class="sign" aria-hidden="true">{}</span>{}</span>',
        kind,
        _SIGNS.get(value, "?"),
        _WORDS.get(value, value) or "unknown",
    )


@register.filter
def cell(value: Any) -> str:
    """Format a value of a row; a long value ends in an ellipsis."""
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return cut(text, 60)


@register.filter
def short(value: str, most: int = 40) -> str:
    """Shorten a text in its middle, where two long names differ least."""
    return value if len(value) <= most else f"{value[: most // 2]}…{value[-(most // 2 - 1) :]}"


@register.simple_tag(takes_context=True)
def allowed(context: template.Context, permission: Any) -> bool:
    """Return whether the user has a permission of the app."""
    return may(_request(context), permission)


@register.simple_tag(takes_context=True)
def said(context: template.Context) -> str:
    """Return what the action before this page has done."""
    return text_of(_request(context))


@register.simple_tag(takes_context=True)
def user_name(context: template.Context) -> str:
    """Return the name of the user; empty if nobody is logged in."""
    user = getattr(_request(context), "user", None)
    return str(user.get_username()) if user is not None and user.is_authenticated else ""


@register.simple_tag
def pages_log_in() -> bool:
    """Return whether the pages have a log-in of their own, because the project has none."""
    return not project_logs_in()


def _request(context: template.Context) -> Any:
    """Return the request, also in a project without the context processor for it."""
    return context.request


@register.filter
def named(mapping: Any, key: str) -> Any:
    """Return the value of a key that is no identifier."""
    return mapping.get(key, "")


@register.filter
def pairs(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the keys and values of a mapping. In a template, ``mapping.items`` would be the value of a key ``items``.

    >>> pairs({"items": 1})
    [('items', 1)]
    """
    return list(mapping.items())


@register.filter
def hour(at: datetime) -> str:
    """Format a time of day in UTC. The filter ``date`` of Django would use the zone of the project.

    >>> hour(datetime.fromisoformat("2026-11-29T09:00:00+09:00"))
    '00:00'
    """
    return f"{at.astimezone(UTC):%H:%M}"


@register.filter
def from_base(height: int) -> int:
    """Return where a bar of the chart begins, counted from the top.

    >>> from_base(100), from_base(0)
    (10, 110)
    """
    return 110 - height
