"""The `dsdctl` command, and `python -m dsdctl`."""

import signal
import sys


def main() -> None:
    """Run the command line, unless the system lacks what its modules import."""
    if sys.platform == "win32":
        sys.stderr.write("dsdctl: does not run on Windows (allowed: Linux, macOS, or WSL on it)\n")
        sys.exit(2)
    try:
        from dsdctl.system.processes import open_closed_streams

        open_closed_streams()
        from dsdctl.cli.app import main as command_line

        command_line()
    except KeyboardInterrupt:  # before the command could take care of it
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it would show a trace at the exit


if __name__ == "__main__":
    main()
