from __future__ import annotations

from django.urls import path

from scoreline.django.views import webhook
from scoring import views

urlpatterns = [
    path("", views.overview, name="overview"),
    path("new/", views.create, name="create"),
    path("<uuid:pk>/", views.detail, name="detail"),
    path("<uuid:pk>/send/", views.send, name="send"),
    path("scored/", webhook),
]
