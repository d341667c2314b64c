"""`scoreline web`: the pages of `scoreline.tasks.django` as a site of its own, without a Django project or a database.

The site knows its users from the setting WEB_USERS or from the header of a trusted proxy. Sessions are signed cookies.
"""
