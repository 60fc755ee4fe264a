"""docs/api.md lists every public name; ``python tests/test_api_page.py`` writes it again."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
HEAD = """# Every public name

By module, each with the first line of its docstring; the rest (shapes, units, errors, sources) stands there. Everything is
typed, and `py.typed` says so. `tokenwalk.envs` needs numpy and gymnasium alone; `tokenwalk.agents.exact` and
`tokenwalk.agents.backprop.linear` do, too; the others come with `[train]`. What `tokenwalk.scripts` holds is the command
line. Names that begin with an underscore, and whatever is not here, may change without notice.
"""


def render() -> str:
    """Return the page as the code is."""
    parts = [HEAD]
    for file in sorted([*ROOT.glob("envs/**/*.py"), *ROOT.glob("agents/**/*.py")]):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = [
            (node.name, first_line(node))
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        if named:
            module = ".".join(("tokenwalk", *file.relative_to(ROOT).with_suffix("").parts))
            rows = "".join(f"- `{name}`: {said}\n" for name, said in named)
            parts.append(f"## {module}\n\n{rows}")
    return "\n".join(parts)


def first_line(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first paragraph of a docstring as one line, without what Markdown would read."""
    said = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return said.replace("``", "`").replace("|", "/").replace("](", "] (")


def test_the_page_lists_every_public_name_with_what_its_docstring_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "python tests/test_api_page.py writes docs/api.md again"
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
