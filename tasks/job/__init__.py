"""What a job is on paper: its options, spec, plan, documents, and where its files lie.

Plain values with a JSON form live here, and the pure functions that make them. Nothing that scores, sends or waits
enters. It imports `scoreline.storage` and no other room, and works with `requirements.txt` alone.
"""
