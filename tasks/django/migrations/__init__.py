"""Migrations of the app. They create permissions and no table."""
