"""Moves the alias of a model to another version."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from scoreline.storage.errors import ModelNotFound
from scoreline.tasks.django.access import page
from scoreline.tasks.django.actions.confirmation import Question, ask
from scoreline.tasks.django.process import overview
from scoreline.tasks.overview.models import metrics_of
from scoreline.tasks.quality.challengers.challenger_runs import newest_comparison
from scoreline.tasks.quality.challengers.promotion import promote


@page("promote", methods=("GET", "HEAD", "POST"))
def move(request: HttpRequest, model: str, alias: str) -> HttpResponse:
    """Ask to which version an alias should move, or move it."""
    found = overview()
    facts = found.model(model)
    known = next((item for item in facts.aliases if item.name == alias), None)
    if known is None:
        raise ModelNotFound(f"model {model!r} has no alias {alias!r}")
    choices = []
    for item in facts.versions:
        metrics = ", ".join(" ".join(pair) for pair in metrics_of(item.manifest))
        here = "the alias names it now" if item.version == known.version else ""
        notes = "; ".join(filter(None, (metrics, here)))
        choices.append((item.version, f"{item.version} ({notes})" if notes else item.version))

    class Version(forms.Form):
        """The versions to choose from."""

        version = forms.ChoiceField(choices=choices, widget=forms.RadioSelect)

    previous = known.previous
    question = Question(
        title=f"Move {alias} of {model}?",
        sentence="Jobs that name the alias score with the chosen version from then on. Jobs under way keep theirs.",
        verb="Move the alias",
        back=reverse("scoreline:model", args=[model]),
        form=Version,
        initial={"version": previous.version if previous is not None else known.version},
    )

    def do(given: dict[str, Any]) -> str:
        client = found.client
        moved = promote(client.registry, model, alias, given["version"], partial(newest_comparison, client.buckets))
        return f"{alias} names {moved.alias.version} now."

    return ask(request, question, do)
