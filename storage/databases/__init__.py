"""Connections to PostgreSQL, and the settings that name databases. Only workers have these settings."""
