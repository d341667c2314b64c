"""Defines jobs: their documents in the bucket, the steps that plan, score and finalize them, and the client.

The code is divided into rooms: packages on several floors. From the bottom up, the floors are: `job` and `scoring`;
`inputs` and `dispatch`; `rejects` and `webhooks`; `records`; `steps`; the module `client`; and at the top `schedules`
and the module `django`. A module belongs to the lowest room that may import everything that the module needs. A room
imports only from lower floors, and never imports `scoreline.worker`.
"""
