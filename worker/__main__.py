"""Runs ``scoreline`` as ``python -m scoreline``, which works where only the requirements are installed."""

from scoreline.worker.cli.main import main

if __name__ == "__main__":
    main()
