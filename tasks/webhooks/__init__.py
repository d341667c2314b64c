"""Notifications of how jobs ended: who may be notified, the signed request, and the record that it was delivered.

Whatever leaves the deployment because a job ended lives here. It imports `job` and `dispatch`, and works with
`requirements.txt` alone.
"""
