"""Jobs by the clock: the schedule file, when a slot is due, and what a tick does about it.

What decides by the time of day lives here. It imports `client`, which submits and cancels, and works with
`requirements.txt` alone.
"""
