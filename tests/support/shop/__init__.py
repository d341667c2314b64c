"""An app of a Django project whose rows are jobs, with a database, in the process of a test."""
