"""`python -m cellplm` is the `cellplm` command."""

from cellplm.cli.main import main

if __name__ == "__main__":
    main()
