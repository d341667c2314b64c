"""Says whether the results of a job can be trusted: profiles, checks, the verdict, and which run readers take.

A profile consists of counts and exact sums, so that the profiles of parts can be added in any order. Modules that
status, the client or the producer commands of the command line import need only `requirements.txt`, such as
`profiles.profile`; NumPy and pyarrow are imported only by modules that a worker needs, such as `profiles.counting`.
This room imports the rooms `dispatch`, `scoring` and `job`. Each of its packages imports only those below it:
`profiles`, `checks`, `gate` beside `challengers`, `results`, `outcomes` beside `trace`, and `report` on top.
"""
