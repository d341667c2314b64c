"""What people can change, each with a page that asks for confirmation, and by POST alone.

Every action goes through the client or the scheduler, which write the audit before the change.
"""
