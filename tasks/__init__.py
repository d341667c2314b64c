"""Contains everything about jobs, from their documents to the client that submits them.

The code is divided into rooms on several floors. From the bottom up, they are: `job` and `scoring`; `inputs` and
`dispatch`; `rejects` and `webhooks`; `records`; `steps`; the module `client`; and at the top `schedules` and the module
`django`. A module belongs to the lowest room that has everything it needs. A room imports only from the floors below
it, never from one above, nor from `scoreline.worker`.
"""
