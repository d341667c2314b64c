"""Embedded services for development, demonstrations and tests. All but `demo` needs `dev-requirements.txt`."""
