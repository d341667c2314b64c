"""What a job is, in rooms: from the documents of a job to the client that submits it.

A module belongs to the lowest room that has all it needs. The rooms, bottom floor first: `job` and `scoring`, `inputs`
and `dispatch`, `rejects` and `webhooks`, `records`, `steps`, the module `client`, and on top `schedules` and the module
`django`. A room imports from the floors below it and never from one above, nor from `scoreline.worker`.
"""
