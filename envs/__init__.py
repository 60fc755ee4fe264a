"""What is given: environments, tasks and rewards. Needs numpy and gymnasium only, never torch."""

if __name__ == "envs":
    raise ImportError(
        "this folder is the package tokenwalk.envs: install the checkout (pip install -e .) and write "
        "'from tokenwalk.envs.counter_walk import CounterWalkEnv'; a bare 'envs' would be a second copy of every class"
    )
