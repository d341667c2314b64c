"""Tells people what happened overnight: by e-mail, in Slack or Teams, or by any other service that Apprise knows.

`settings` and `recipients` say who wants to hear of what, `wording` writes the messages, and `sending` sends the alerts
that wait in the bucket. The package works with `requirements.txt` alone; only sending needs Apprise.
"""
