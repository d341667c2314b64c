"""The Django app of Scoreline, under the name by which projects install it.

In ``settings.py``::

    INSTALLED_APPS += ["scoreline.django"]

and in ``urls.py``::

    path("scoreline/", include("scoreline.django.urls"))

The code is in `scoreline.tasks.django`.
"""

from scoreline.tasks.django import client, forget

__all__ = ["client", "forget"]
