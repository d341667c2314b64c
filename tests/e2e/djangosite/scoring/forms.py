from __future__ import annotations

import uuid
from typing import Any

from django import forms

from scoring.models import Prediction


class PredictionForm(forms.Form):
    """A form for a model and an input. The page contains the key of the row, so a page sent twice makes one row.

    Only Scoreline knows whether the model and the bucket exist.
    """

    id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    model = forms.CharField(
        max_length=200,
        help_text="name, name@alias or name@version",
        widget=forms.TextInput(attrs={"placeholder": "churn@champion", "autofocus": True}),
    )
    input = forms.CharField(
        max_length=1024,
        help_text="s3://bucket/key, s3://bucket/prefix/ or a glob",
        widget=forms.TextInput(attrs={"placeholder": "s3://bucket/folder/"}),
    )

    def clean(self) -> dict[str, Any]:
        """Refuse a page that is submitted again with different values, because a job cannot be changed."""
        wanted: dict[str, Any] = super().clean() or {}
        sent = Prediction.objects.filter(pk=wanted.get("id")).first()
        if sent and (sent.model, sent.inputs) != (wanted.get("model"), [wanted.get("input")]):
            raise forms.ValidationError("This page was sent before, as %(sent)s: open it anew.", params={"sent": sent})
        return wanted
