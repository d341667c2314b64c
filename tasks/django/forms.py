"""The form of a new job, made from the same descriptions of options as the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.forms.boundfield import BoundField

from scoreline.tasks.job.source_options import SOURCE_OPTIONS
from scoreline.tasks.job.submit_options import Option, SubmitOptions, described

_MAIN = ("model", "input", "output", "max_rejected", "labels")
_NOT_HERE = ("job_id", "webhook", *SOURCE_OPTIONS)
"""An id is only needed to repeat a call, and the address of a webhook may be a secret. The pages try each job before it
is submitted, and only workers know the databases from which jobs read rows."""


class JobForm(forms.Form):
    """A new job."""

    model = forms.CharField(
        max_length=600,
        help_text="As name@alias, name@version, or name for the newest version.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "churn@champion"}),
    )
    input = forms.CharField(
        max_length=20_000,
        help_text="Objects, prefixes that end in / or globs, one on each line.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "placeholder": "s3://bucket/in/*.parquet"}),
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, option in described(SubmitOptions).items():
            if name not in _NOT_HERE:
                self.fields[name] = _field(name, option)

    @property
    def main(self) -> Iterator[BoundField]:
        """The fields that most jobs need."""
        return (self[name] for name in _MAIN)

    @property
    def more(self) -> Iterator[BoundField]:
        """The other fields."""
        return (self[name] for name in self.fields if name not in _MAIN)

    @property
    def has_more(self) -> bool:
        """Whether one of the other fields has a value or an error."""
        return any(field.errors or field.value() for field in self.more)

    def inputs(self) -> list[str]:
        """Return the inputs, without blank lines."""
        return [line.strip() for line in self.cleaned_data["input"].splitlines() if line.strip()]

    def options(self) -> dict[str, Any]:
        """Return the options that have a value, as `Client.submit` takes them."""
        found = {name: self.cleaned_data[name] for name in described(SubmitOptions) if name in self.cleaned_data}
        return {name: value for name, value in found.items() if value not in ("", None, False, [], {})}


class _Names(forms.CharField):
    """Names separated by commas."""

    def clean(self, value: Any) -> Any:
        return [name.strip() for name in super().clean(value).split(",") if name.strip()]


class _Pairs(forms.CharField):
    """Pairs such as ``name=value``, separated by commas."""

    def clean(self, value: Any) -> Any:
        pairs = {}
        for item in super().clean(value).replace("\n", ",").split(","):
            name, equals, text = (part.strip() for part in item.rpartition("="))
            if item.strip() and not (name and equals and text):
                raise forms.ValidationError(f"{item.strip()!r} is not of the form name=value")
            if name:
                pairs[name] = text
        return pairs


def _field(name: str, option: Option) -> forms.Field:
    """Return the field of an option."""
    text = f"{option.help} Default: {option.default}." if option.default else option.help
    common: dict[str, Any] = {"required": False, "help_text": text, "label": name.replace("_", " ").capitalize()}
    if option.kind == "flag":
        return forms.BooleanField(**common)
    if option.choices:
        return forms.ChoiceField(choices=[("", "default"), *((choice, choice) for choice in option.choices)], **common)
    if option.kind == "count":
        return forms.IntegerField(min_value=1, max_value=2**31, **common)
    if option.kind == "file":
        return forms.CharField(
            max_length=100_000, widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}), **common
        )
    if option.metavar and option.kind == "text":
        common["widget"] = forms.TextInput(attrs={"placeholder": option.metavar})
    kinds: dict[str, type[forms.CharField]] = {"names": _Names, "types": _Pairs, "labels": _Pairs}
    limit = 1 if option.kind == "character" else 4_000
    return kinds.get(option.kind, forms.CharField)(max_length=limit, strip=option.kind != "character", **common)
