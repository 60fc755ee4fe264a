"""README and docs/ are run: every Python block, every command with what it is said to print, every link (see pages.py)."""

import contextlib
import doctest
import functools
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import NAMES, PAGES, ROOT, blocks

from tokenwalk.scripts.main import COMMANDS, QUIET, main, run_command

CHECKER, LENIENT = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What a placeholder looks like in a command that is a form and no call: TASK, [--steps N], a|b, ...
PLACEHOLDER = re.compile(r"\b[A-Z]{1,}\b|[\[|]|\.\.\.")
# Inline commands that take minutes; blocks say so themselves.
DEEP = re.compile(r"train (lm|rloo|grpo|reinforce|ppo-lm|sft) |compare|benchmark|scripts/studies/")


@dataclass(frozen=True)
class Call:
    """A command of a console block and what it prints, empty where nothing is shown."""

    command: str
    promised: str


def calls(page: str, *, deep: bool) -> list[Call]:
    """Return the commands of a page's console blocks."""
    found = []
    for block in blocks(page):
        if block.kind == "console" and (block.options == "deep") == deep:
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, promised = part.partition("\n")
                found.append(Call(command.partition("  #")[0].strip(), promised))
    return found


def inline(page: str) -> list[str]:
    """Return the commands between backticks."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`((?:tokenwalk |python scripts/)[^`]+)`", text)
    return [" ".join(command.replace("\\|", "|").split()) for command in found]


def is_whole(command: str) -> bool:
    """Return whether a command between backticks can be run: it is more than a name and has no placeholder."""
    words = command.split()
    name_only = len(words) == 2 or (len(words) == 3 and words[1] in ("train", "audit") and words[2] != "kl")
    return (
        not name_only and PLACEHOLDER.search(re.sub(r"--|[A-Z][a-z]\w*|[a-z_]+\.py:\w+", "", command)) is None
    )


def inline_commands(*, deep: bool) -> list[tuple[str, str]]:
    """Return (page, command), each command once and only where no console block holds it."""
    calls_of = [call.command for page in NAMES for kind in (True, False) for call in calls(page, deep=kind)]
    in_blocks = {re.sub(r" --run-dir \S+", "", command) for command in calls_of}
    seen: dict[str, str] = {}
    for page in NAMES:
        for command in inline(page):
            if is_whole(command) and command not in in_blocks and bool(DEEP.search(command)) == deep:
                seen.setdefault(command, page)
    return [(page, command) for command, page in seen.items()]


PYTHON = [
    pytest.param(page, block.text, id=f"{page}-{number}")
    for page in NAMES
    for number, block in enumerate(
        block for block in blocks(page) if block.kind == "python" and block.options != "trl"
    )
]


@pytest.mark.parametrize(("page", "text"), PYTHON)
def test_every_python_block_runs_as_it_stands(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(text, page, "exec"), {"__name__": "__main__"})
    printed = iter(capsys.readouterr().out.splitlines())
    assert (
        re.search(r"^ *\)  # ", text, re.MULTILINE) is None
    )  # a promise behind a folded call would not be read
    for promised in re.findall(r"print\(.*\)  # (.+)", text):
        begins, dots, _ = promised.partition("...")
        line = next(printed)
        assert line.startswith(begins) if dots else line == promised


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder with another for pictures, and undo what a command sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(QUIET, "0")
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "docs").mkdir()
    return tmp_path


def write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.options.startswith("file="):
            (folder / block.options.removeprefix("file=")).write_text(block.text, "utf-8")


def run(command: str) -> tuple[int, str]:
    """Return the exit code and the standard output of a command, run in this process."""
    words = shlex.split(command)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            if words[0] == "tokenwalk":
                code = main(words[1:])
            else:
                script = re.fullmatch(r"scripts/([\w/]+)\.py", words[1])
                assert words[0] == "python", command
                assert script is not None, command
                code = run_command(script[1].replace("/", "."), words[2:])
    except SystemExit as error:  # tyro's, for a wrong option
        code = int(error.code or 0)
    return code, said.getvalue()


def surprises(page: str, *, deep: bool) -> list[str]:
    """Run a page's commands in their order; return those that fail, or print something else than what is shown."""
    code, found, expected = 0, [], calls(page, deep=deep)
    for number, call in enumerate(expected):
        if call.command == "echo $?":
            if str(code) != call.promised.strip():
                found.append(f"$ {expected[number - 1].command}\nended with {code}")
            continue
        code, printed = run(call.command)
        following = expected[number + 1].command if number + 1 < len(expected) else ""
        if code != 0 and following != "echo $?":
            found.append(f"$ {call.command}\nended with {code}")
        # The line under a table's head is as long as the table is wide.
        shown, printed = (re.sub("─+", "─", text) for text in (call.promised, printed))
        if shown.strip() and not CHECKER.check_output(shown, printed, LENIENT):
            example = doctest.Example(call.command, shown)
            found.append(f"$ {call.command}\n{CHECKER.output_difference(example, printed, LENIENT)}")
    return found


def test_a_command_that_fails_or_prints_something_else_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [
        Call("tokenwalk solve CounterWalk", "...\n horizon 100\n...\n"),
        Call("tokenwalk solve CounterWalk", "...\n horizon 99\n...\n"),
        Call("tokenwalk solve CounterWlk", ""),
        Call("tokenwalk solve CounterWlk", ""),
        Call("echo $?", "2"),
        Call("tokenwalk envs", ""),
        Call("echo $?", "1"),
    ]
    monkeypatch.setitem(globals(), "calls", lambda page, *, deep: shown)
    found = surprises("a page", deep=False)
    assert [one.split("\n")[0].removeprefix("$ tokenwalk ") for one in found] == [
        "solve CounterWalk",
        "solve CounterWlk",
        "envs",
    ]
    assert folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in NAMES if calls(page, deep=False)])
def test_the_commands_of_a_page_print_what_it_shows(page: str, folder: Path) -> None:
    write_files(page, folder)
    assert surprises(page, deep=False) == []


@pytest.mark.deep
@pytest.mark.parametrize("page", [page for page in NAMES if calls(page, deep=True)])
def test_the_deep_commands_of_a_page_print_what_it_shows(page: str, folder: Path) -> None:
    write_files(page, folder)
    assert surprises(page, deep=False) + surprises(page, deep=True) == []


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), inline_commands(deep=False))
def test_every_command_in_a_sentence_runs(page: str, command: str, folder: Path) -> None:
    write_files(page, folder)
    assert run(command)[0] == 0


@pytest.mark.deep
@pytest.mark.parametrize(("page", "command"), inline_commands(deep=True))
def test_every_deep_command_in_a_sentence_runs(page: str, command: str, folder: Path) -> None:
    write_files(page, folder)
    assert run(command)[0] == 0


def test_every_other_shell_command_is_one_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text("utf-8")  # and test_rl_zoo3.py runs those of rl-zoo3
    for page in NAMES:
        for block in blocks(page):
            assert block.kind in ("python", "console", "sh", "yaml"), page
            for line in block.text.splitlines() if block.kind == "sh" else []:
                assert line.startswith("python -m rl_zoo3.") or line.partition("  #")[0].strip() in ci, line


@pytest.mark.parametrize("page", NAMES)
def test_links_between_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (ROOT / page).read_text("utf-8"))
    for link, heading in links:
        if link.startswith(("http://", "https://")):
            continue
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), link
        assert not heading or heading in slugs(target), f"{link}#{heading}"


def slugs(page: Path) -> set[str]:
    """Return what the headings of a page are linked by, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, waiting = {ROOT / "README.md"}, [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        for link in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text("utf-8")):
            target = (page.parent / link).resolve()
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", NAMES)
def test_every_command_that_a_page_names_is_one_and_takes_its_options(page: str) -> None:
    shown = [call.command for kind in (True, False) for call in calls(page, deep=kind)] + inline(page)
    for line in shown:
        words = line.split()[1:]
        if not line.startswith("tokenwalk "):
            continue
        name, kinds = words[0], words[1].split("|") if len(words) > 1 else []
        assert name in COMMANDS or name.startswith("--") or name == "COMMAND", line
        second = kinds[0].replace("AGENT", "q-learning") if name in ("train", "audit") and kinds else None
        if (
            second is not None and ":" in second
        ):  # a custom algorithm has the options of the one that it starts from
            second = "rloo"
        options = {word.split("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")}
        assert options <= options_of(name, second), line


@functools.cache
def options_of(name: str, second: str | None) -> set[str]:
    """Return the options in the help of a subcommand, of ``train ppo`` say with those of its agent."""
    said = run(f"tokenwalk {name} {second or ''} --help")[1]
    return {"--help", "--quiet", "--version", *re.findall(r"--[a-z][a-z0-9-]*", said)}
