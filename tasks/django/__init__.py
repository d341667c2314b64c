"""The Django app: pages about jobs, models and schedules, and a client from the settings of a project.

Projects install the app by its public name, `scoreline.django`. This package contains what depends on Django: views,
templates, static files and permissions. What the pages show is read by `scoreline.tasks.overview`, which knows no
Django. Importing this package imports no module of Django, so that a process that only submits jobs needs none.
"""

from scoreline.tasks.django.project_client import NAMES, client, environ, forget

__all__ = ["NAMES", "client", "environ", "forget"]
