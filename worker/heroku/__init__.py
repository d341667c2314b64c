"""Scales the dynos of a Heroku app: `formation` asks Heroku's Platform API, and `scaler` decides when."""
