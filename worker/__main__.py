"""``python -m scoreline`` is ``scoreline``, where nothing is installed but the requirements."""

from scoreline.worker.cli.main import main

if __name__ == "__main__":
    main()
