"""A table with one row for each job that a user requested."""

from __future__ import annotations

import uuid

from django.db import models
from django.dispatch import receiver
from django.urls import reverse

from scoreline.django.models import Scoring
from scoreline.django.signals import on_ended


class Prediction(Scoring):
    """A job, and how often people were told about its end."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    told = models.PositiveIntegerField(default=0)

    def get_absolute_url(self) -> str:
        return reverse("detail", args=[self.pk])


@receiver(on_ended, sender=Prediction)
def tell(instance: Prediction, **_: object) -> None:
    """Tell people that a job has ended; this site only counts."""
    Prediction.objects.filter(pk=instance.pk).update(told=models.F("told") + 1)
