"""tokenwalk: a gym for the reward mechanisms behind language models, in which every answer is known exactly.

``import tokenwalk`` registers the environments with Gymnasium and loads neither torch nor Stable-Baselines3.
"""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
if not (Path(__file__).parent / "envs").is_dir() and (_ROOT / "envs" / "registration.py").is_file():
    # A checkout without symbolic links (git on some systems): the real folders lie two levels up.
    __path__.append(str(_ROOT))

from tokenwalk.envs.registration import register_all  # noqa: E402

register_all()

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Return ``__version__``, read from the installation when asked for: the reader costs every start 40 ms."""
    if name != "__version__":
        raise AttributeError(f"module 'tokenwalk' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tokenwalk")
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "0+unknown"
