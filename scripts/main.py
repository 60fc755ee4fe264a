"""The command ``tokenwalk``: runs a subcommand and prints a user's error as one line."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

COMMANDS = {
    "envs": "list the environments with their optimal and reference returns",
    "solve": "print an environment's exact optimum, also KL-regularized",
    "train": "train an agent and write a run folder with TensorBoard curves",
    "evaluate": "evaluate a run, exactly if possible",
    "compare": "compare agents and rewards over seeds, with intervals",
    "report": "write a page with charts of runs",
    "goodhart": "print gold against KL as a proxy is optimized",
    "audit": "find the reward-optimal completion and the exploits of a reward",
    "play": "play a token task and see the best return still possible",
    "benchmark": "measure speed against peers, as ratios in one run",
    "examples": "run the listings of the documents: printed and correct results",
    "doctor": "check this installation and print how to fix it",
}
USAGE = "usage: tokenwalk COMMAND [ARGUMENTS] [--quiet]     ('tokenwalk COMMAND --help' explains one)"
QUIET = "TOKENWALK_QUIET"  # an environment variable: only errors on stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tokenwalk`` with ``argv`` (default: ``sys.argv``) and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items())
        print(f"{USAGE}\n\n{listing}\n\nFor example: tokenwalk train q-learning CounterWalk")
        return 0
    if argv[0] == "--version":
        from tokenwalk import __version__

        print(f"tokenwalk {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1) or list(COMMANDS)
        return fail(f"there is no command {argv[0]!r}: did you mean {', '.join(near)}?")
    return run_command(argv[0], argv[1:])


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run the subcommand ``name`` and return its exit code: 2 for a user's error, 130 after Ctrl-C.

    ``--quiet`` (or TOKENWALK_QUIET=1) prints only errors on stderr.
    A user's error is one line on stderr; TOKENWALK_TRACEBACK=1 shows its traceback.
    """
    try:
        argv = list(sys.argv[1:] if argv is None else argv)
        if "--quiet" in argv:
            argv.remove("--quiet")
            os.environ[QUIET] = "1"
        command: Callable[[Sequence[str]], int] = importlib.import_module(f"tokenwalk.scripts.{name}").main
        return command(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tokenwalk"):
            raise
        return fail(f"'tokenwalk {name}' needs the package {error.name}: pip install 'tokenwalk[train]'")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has ended, as with '| head'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("TOKENWALK_TRACEBACK"):
            raise
        return fail(str(error))


def fail(message: str) -> int:
    """Print one line on stderr and return the exit code of a user's error."""
    print(f"tokenwalk: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
