"""Loads accepted results into tables of PostgreSQL.

`requests` asks for a load, with requirements.txt alone. `loader` does the work of one message, and `one_load` what the
message does for one load of the job; `beginning` looks at the table and takes the turn, and `progress` writes how far
the load is. `part` loads one file of results in one transaction, `refused` finds the rows that a table refuses, and
`swap` replaces a whole table. `registry` keeps receipts, and the order of the jobs of a table, in the database itself.
`tables` looks at a table or creates it. `part_rows` hands out the rows of a file, which `binary` and `encoding` write
as COPY reads them, and `stored_rows` finds those that the table has already, column by column (`stored_column`).

This room imports the rooms below it, and no Celery.
"""
