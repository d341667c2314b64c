"""Actions on jobs: cancel, resume, score rejected rows again, accept, reject, and go back to an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from scoreline.storage.errors import InvalidRequest
from scoreline.tasks.client import Client
from scoreline.tasks.django.access import Permission, fault, may, page
from scoreline.tasks.django.actions.confirmation import NoFields, Question, Reason, ask
from scoreline.tasks.django.process import overview
from scoreline.tasks.django.said import why_not_cancelled


class Resume(forms.Form):
    """What a person may change when a job goes on."""

    max_rejected = forms.CharField(
        required=False,
        max_length=20,
        label="Rows that may be rejected",
        help_text="A number such as 500, or a share such as 2%.",
    )


class Rescore(forms.Form):
    """What a person may change when rejected rows are scored again."""

    model = forms.CharField(
        required=False,
        max_length=600,
        help_text="Another model, as name, name@alias or name@version. Default: the same.",
    )


class Rollback(Reason):
    """Which run readers take again, and why."""

    job_id = forms.CharField(
        required=False,
        max_length=200,
        label="Run",
        help_text="The job. Default: the newest accepted run before the latest.",
    )


type _Act = Callable[[Client, str, dict[str, Any]], str]
_ACTIONS: dict[str, tuple[Permission, str, str, str, type[forms.Form], _Act]] = {}


def _action(
    name: str,
    permission: Permission,
    verb: str,
    sentence: str,
    *,
    tone: str = "good",
    form: type[forms.Form] = NoFields,
) -> Callable[[_Act], _Act]:
    def register(act: _Act) -> _Act:
        _ACTIONS[name] = (permission, verb, sentence, tone, form, act)
        return act

    return register


@_action(
    "cancel",
    "operate",
    "Cancel the job",
    "The job ends now. Results that are written stay, and the job can be resumed.",
    tone="danger",
)
def _cancel(client: Client, job_id: str, given: dict[str, Any]) -> str:
    now = client.cancel(job_id)
    if now.state == "cancelled":
        return "The job is cancelled."
    return f"The job is not cancelled: {why_not_cancelled(now.state, has_ended=now.ended is not None)}."


@_action(
    "resume",
    "operate",
    "Resume the job",
    "Only the missing parts are scored, with the same model version and the same objects.",
    form=Resume,
)
def _resume(client: Client, job_id: str, given: dict[str, Any]) -> str:
    client.resume(job_id, max_rejected=given["max_rejected"] or None)
    return "The job goes on."


@_action(
    "resume-rejected",
    "operate",
    "Score the rejected rows again",
    "A new job scores only the rows that this job rejected. The results of this job do not change.",
    form=Rescore,
)
def _resume_rejected(client: Client, job_id: str, given: dict[str, Any]) -> str:
    return client.resume_rejected(job_id, model=given["model"] or None).job_id


@_action(
    "accept",
    "promote",
    "Accept the results",
    "Readers get the results of this job, although its checks or a person blocked them.",
    form=Reason,
)
def _accept(client: Client, job_id: str, given: dict[str, Any]) -> str:
    decided = client.accept(job_id, given["reason"])
    return "The results are accepted." + (" Readers take this run now." if decided.latest == job_id else "")


@_action(
    "reject",
    "promote",
    "Reject the results",
    "Readers no longer get the results of this job. The accepted run before it takes its place.",
    tone="danger",
    form=Reason,
)
def _reject(client: Client, job_id: str, given: dict[str, Any]) -> str:
    decided = client.reject(job_id, given["reason"])
    return f"The results are withdrawn. Readers take {decided.latest or 'no run'} now."


@page("view", methods=("GET", "HEAD", "POST"))
def act(request: HttpRequest, job_id: str, action: str) -> HttpResponse:
    """Ask for an action on a job, or carry it out."""
    if action not in _ACTIONS:
        raise Http404
    permission, verb, sentence, tone, form, carry_out = _ACTIONS[action]
    if not may(request, permission):
        return fault(request, 403, "You may not do this", f"This needs the permission scoreline.{permission}.")
    found = overview()
    status = found.status(job_id)
    back = reverse("scoreline:job", args=[job_id])
    question = Question(
        title=f"{verb}?",
        sentence=f"{job_id} is {status.state}. {sentence}",
        verb=verb,
        back=back,
        tone=tone,
        form=form,
    )

    def do(given: dict[str, Any]) -> str | tuple[str, str]:
        done = carry_out(found.client, job_id, given)
        if action == "resume-rejected":
            return "This job scores the rejected rows.", reverse("scoreline:job", args=[done])
        return done

    return ask(request, question, do)


@page("promote", methods=("GET", "HEAD", "POST"))
def rollback(request: HttpRequest) -> HttpResponse:
    """Ask whether readers of an output should take an earlier run, or make them take it."""
    output = request.GET.get("output", "")
    if not output:
        raise InvalidRequest("the address names no output: begin at the page of a job")
    found = overview()
    runs = [run for run in found.client.runs(output) if run.state in ("latest", "accepted")][:5]
    listed = "; ".join(f"{run.job_id} ({run.state})" for run in runs) or "none"
    question = Question(
        title="Go back to an earlier run?",
        sentence=f"Readers of {output} take an earlier run until a newer one is accepted. Accepted runs: {listed}.",
        verb="Go back",
        back=reverse("scoreline:jobs"),
        tone="danger",
        form=Rollback,
    )

    def do(given: dict[str, Any]) -> tuple[str, str]:
        latest = found.client.roll_back(output, given["job_id"].strip() or None, reason=given["reason"])
        address = reverse("scoreline:job", args=[latest.job_id]) if latest.job_id else reverse("scoreline:jobs")
        return f"Readers take {latest.job_id or 'no run'} now.", address

    return ask(request, question, do)
