"""Makes ``python -m scoreline`` the same as the command ``scoreline``, even in a checkout that is not installed."""

from scoreline.worker.cli.main import main

if __name__ == "__main__":
    main()
