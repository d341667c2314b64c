"""The backlog: how much work is left, how many dynos finish it in time, and what work costs.

All of it works with `requirements.txt` alone.
"""
