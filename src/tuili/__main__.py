"""`python -m tuili` is the command line."""

from tuili.cli.main import run

if __name__ == "__main__":
    run()
