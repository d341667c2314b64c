from __future__ import annotations

from django.db import models

from scoreline.django.models import Scoring


class Prediction(Scoring):
    """A job for a customer."""

    customer = models.CharField(max_length=50)

    class Meta(Scoring.Meta):
        app_label = "shop"


class Forecast(Scoring):
    """A second model of jobs in the same project."""

    class Meta(Scoring.Meta):
        app_label = "shop"


class Urgent(Prediction):
    """A model with a table of its own for what it adds."""

    minutes = models.PositiveIntegerField(default=5)

    class Meta(Scoring.Meta):
        app_label = "shop"
