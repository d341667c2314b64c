"""A project that keeps its files in a bucket through django-storages; Scoreline reads the same settings."""

from __future__ import annotations

import os

SECRET_KEY = os.environ["SECRET_KEY"]
# Django's debug page shows settings and environment variables to anyone who causes an error. The page hides names with
# KEY, SECRET or PASS, but shows the password in REDIS_URL and all local variables.
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]

# The pages of Scoreline and its permissions also need django.contrib.auth and contenttypes; the commands do not
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "scoreline.django",
    "scoring",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
ROOT_URLCONF = "project.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.contrib.messages.context_processors.messages"]},
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["DATABASE"],
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
TIME_ZONE = "UTC"
USE_THOUSAND_SEPARATOR = True

STORAGES = {"default": {"BACKEND": "storages.backends.s3.S3Storage"}}
AWS_S3_ENDPOINT_URL = os.environ.get("UPLOADS_URL")
AWS_STORAGE_BUCKET_NAME = os.environ.get("UPLOADS_BUCKET")
AWS_ACCESS_KEY_ID = os.environ.get("UPLOADS_KEY")
AWS_SECRET_ACCESS_KEY = os.environ.get("UPLOADS_SECRET")
CELERY_BROKER_URL = REDIS_URL = os.environ.get("QUEUE_URL")
WEBHOOK_URL, WEBHOOK_SECRET = os.environ.get("HOOK_URL"), os.environ.get("HOOK_SECRET")
