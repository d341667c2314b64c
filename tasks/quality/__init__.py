"""Says whether the results of a job can be trusted: profiles, checks, the verdict, and which run readers take.

Modules that status, the client or the producer commands of the command line import need only `requirements.txt`; NumPy
and pyarrow are imported only by modules that a worker needs. This room imports the rooms `dispatch`, `scoring` and
`job`.
"""
