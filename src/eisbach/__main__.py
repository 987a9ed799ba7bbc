"""`python -m eisbach`: the command line, as launchers such as accelerate's start it."""

from eisbach.cli.main import main

if __name__ == "__main__":
    main()
