"""What is learned or solved."""

if __name__ == "agents":
    raise ImportError(
        "this folder is the package tokenwalk.agents: install the checkout (pip install -e .) and write "
        "'from tokenwalk.agents.exact.dynamic_programming import solve'; a bare 'agents' would copy every class"
    )
