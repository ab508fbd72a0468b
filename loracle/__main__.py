"""`python -m loracle`."""

from loracle.cli import main

if __name__ == "__main__":
    main()
