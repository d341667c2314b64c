"""Jobs in the database of a project: the model `Scoring`, how its jobs are sent and followed, and its admin.

Applications import these names from `scoreline.django.models`, `scoreline.django.admin`, `scoreline.django.signals` and
`scoreline.django.testing`.
"""
