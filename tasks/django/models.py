"""The permissions of the app. They belong to a model without a table, because Django gives permissions to models."""

from __future__ import annotations

from django.db import models


class Access(models.Model):
    """What a user may do with Scoreline. There is no table and there are no rows."""

    class Meta:
        """Each permission is one name, such as ``scoreline.operate``."""

        app_label = "scoreline"
        managed = False
        default_permissions = ()
        permissions = (
            ("view", "Can see jobs, models and schedules, and download results"),
            ("operate", "Can submit, cancel and resume jobs, and run or pause schedules"),
            ("promote", "Can accept and reject results, go back to earlier runs, and move aliases"),
        )
        verbose_name = "access to Scoreline"
        verbose_name_plural = "pages"  # how the index of the admin names the link
