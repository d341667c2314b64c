"""The addresses of the pages."""

from __future__ import annotations

from importlib.metadata import version

from django.urls import path

from scoreline.tasks.django.actions import jobs as job_actions
from scoreline.tasks.django.actions import models as model_actions
from scoreline.tasks.django.actions import schedules as schedule_actions
from scoreline.tasks.django.actions import submit
from scoreline.tasks.django.views import assets, jobs, login, pages

app_name = "scoreline"
urlpatterns = [
    path("", pages.home, name="home"),
    path("jobs/", jobs.jobs, name="jobs"),
    path("jobs/<str:job_id>/", jobs.job, name="job"),
    path("jobs/<str:job_id>/rejects/", jobs.rejects, name="rejects"),
    path("jobs/<str:job_id>/rows/", jobs.rows, name="rows"),
    path("jobs/<str:job_id>/report/", jobs.report, name="report"),
    path("jobs/<str:job_id>/files/<path:name>", jobs.file, name="file"),
    path("jobs/<str:job_id>/do/<str:action>/", job_actions.act, name="job-action"),
    path("submit/", submit.submit, name="submit"),
    path("results/rollback/", job_actions.rollback, name="rollback"),
    path("models/", pages.models, name="models"),
    path("models/<str:model>/", pages.model, name="model"),
    path("models/<str:model>/aliases/<str:alias>/", model_actions.move, name="alias"),
    path("schedules/", pages.schedules, name="schedules"),
    path("schedules/<str:schedule>/", pages.schedule, name="schedule"),
    path("schedules/<str:schedule>/do/<str:action>/", schedule_actions.act, name="schedule-action"),
    path("workers/", pages.workers, name="workers"),
    path("backlog/", pages.backlog, name="backlog"),
    path("log-in/", login.log_in, name="log-in"),
    path("log-out/", login.log_out, name="log-out"),
    path(f"assets/htmx-{version('django-htmx')}.js", assets.htmx, name="htmx"),
]
