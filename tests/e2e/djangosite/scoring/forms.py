from __future__ import annotations

import uuid
from typing import Any

from django import forms

from scoring.models import Scoring


class ScoringForm(forms.ModelForm):
    """What to score with what; the key of the row comes with the page, so that a page sent twice is one row.

    Whether there is such a model and such a bucket only Scoreline knows: `Client.submit` checks what is typed.
    """

    id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    class Meta:
        model = Scoring
        fields = ("id", "model", "input")
        widgets = {
            "model": forms.TextInput(attrs={"placeholder": "churn@champion", "autofocus": True}),
            "input": forms.TextInput(attrs={"placeholder": "s3://bucket/folder/"}),
        }

    def validate_unique(self) -> None:
        """Let a row that is there pass: `row` finds it."""

    def clean(self) -> dict[str, Any]:
        """Refuse a page that was sent before with something else in it: a job does not change."""
        wanted: dict[str, Any] = super().clean() or {}
        sent = Scoring.objects.filter(pk=wanted.get("id")).first()
        if sent and (sent.model, sent.input) != (wanted.get("model"), wanted.get("input")):
            raise forms.ValidationError("This page was sent before, as %(sent)s: open it anew.", params={"sent": sent})
        return wanted

    def row(self) -> tuple[Scoring, bool]:
        """Return the row, and whether it is new."""
        wanted = {name: self.cleaned_data[name] for name in ("model", "input")}
        return Scoring.objects.get_or_create(pk=self.cleaned_data["id"], defaults=wanted)
