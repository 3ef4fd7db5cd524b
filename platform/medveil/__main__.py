"""``python -m medveil`` is ``medveil``."""

from medveil.cli import main

if __name__ == "__main__":
    main()
