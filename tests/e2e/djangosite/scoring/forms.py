from __future__ import annotations

import uuid
from typing import Any

from django import forms

from scoring.models import Scoring


class ScoringForm(forms.ModelForm):
    """A form for a model and an input. The page contains the key of the row, so a page sent twice makes one row.

    Only Scoreline knows whether the model and the bucket exist, so `Client.submit` checks what the user typed.
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
        """Accept the key of an existing row, which `row` returns."""

    def clean(self) -> dict[str, Any]:
        """Refuse a page that is submitted again with different values, because a job cannot be changed."""
        wanted: dict[str, Any] = super().clean() or {}
        sent = Scoring.objects.filter(pk=wanted.get("id")).first()
        if sent and (sent.model, sent.input) != (wanted.get("model"), wanted.get("input")):
            raise forms.ValidationError("This page was sent before, as %(sent)s: open it anew.", params={"sent": sent})
        return wanted

    def row(self) -> tuple[Scoring, bool]:
        """Return the row, and whether it is new."""
        wanted = {name: self.cleaned_data[name] for name in ("model", "input")}
        return Scoring.objects.get_or_create(pk=self.cleaned_data["id"], defaults=wanted)
