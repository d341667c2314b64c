"""``python -m worker`` is ``scoreline``, where nothing is installed but the requirements."""

from worker.cli.main import main

if __name__ == "__main__":
    main()
