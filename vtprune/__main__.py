"""``python -m vtprune``: the command line, where the installed script is not on the path."""

from vtprune.cli import main

if __name__ == "__main__":
    main()
