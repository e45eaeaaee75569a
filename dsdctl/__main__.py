"""The `dsdctl` command, and `python -m dsdctl`."""

import sys


def main() -> None:
    """Run the command line, unless the system lacks what its modules import."""
    if sys.platform == "win32":
        sys.stderr.write("dsdctl: does not run on Windows (allowed: Linux, macOS, or WSL on it)\n")
        sys.exit(2)
    from dsdctl.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
