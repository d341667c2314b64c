"""Asks a person to confirm an action, and carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render

from scoreline.storage.errors import InvalidRequest, ScorelineError, describe
from scoreline.tasks.django.process import overview
from scoreline.tasks.django.said import sign_text


class NoFields(forms.Form):
    """The form of an action that needs nothing but a confirmation."""


class Reason(forms.Form):
    """The form of an action that needs a reason."""

    reason = forms.CharField(
        max_length=1_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="It is shown with the results, and recorded in the audit.",
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a page asks before an action."""

    title: str
    sentence: str
    """What happens, in a sentence."""
    verb: str
    """The text of the button."""
    back: str
    """The address to which a person returns."""
    tone: str = "good"
    """``good``, or ``danger`` if the action takes something away."""
    form: type[forms.Form] = NoFields
    initial: dict[str, Any] | None = None


def ask(
    request: HttpRequest, question: Question, act: Callable[[dict[str, Any]], str | tuple[str, str]]
) -> HttpResponse:
    """Show the question; after a POST, act and go back.

    Parameters
    ----------
    act : callable
        Carries out the action with the values of the form. It returns what was done, and perhaps the address that
        shows it.
    """
    form = question.form(request.POST if request.method == "POST" else None, initial=question.initial)
    fault = ""
    if request.method == "POST" and form.is_valid():
        try:
            done = act(form.cleaned_data)
        except InvalidRequest as error:
            fault = describe(error)
        except ScorelineError:
            overview().forget()
            raise
        else:
            overview().forget()
            text, address = (done, question.back) if isinstance(done, str) else done
            return go(address, text)
    status = 400 if fault or form.errors else 200
    context = {**vars(question), "form": form, "fault": fault}
    return render(request, "scoreline/confirm.html", context, status=status)


def go(address: str, text: str) -> HttpResponse:
    """Lead to a page of this site that says what was done."""
    sign = "&" if "?" in address else "?"
    return HttpResponseRedirect(f"{address}{sign}said={sign_text(text)}")
