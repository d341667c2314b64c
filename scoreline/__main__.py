"""``python -m scoreline`` is the command ``scoreline``, also in a checkout that is not installed."""

from scoreline.worker.cli.main import main

if __name__ == "__main__":
    main()
