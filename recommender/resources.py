"""Where the files that travel with the package are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from recommender.errors import MissingDataError, UnknownNameError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """Return the directory `name` (`datasets`, `profiles`) that came with this package.

    An installed package carries it as `recommender/bundled/<name>`; a checkout has it at its root, recognised by
    the `pyproject.toml` there, so that an unrelated `site-packages/<name>` is never taken for it.

    Raises `MissingDataError` when neither exists.
    """
    installed = _PACKAGE / "bundled" / name
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent / name
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise MissingDataError(f"the directory '{name}' is neither {installed} nor {checkout}: reinstall the package")


def shipped_profiles() -> dict[str, Path]:
    """Return the measured profiles that came with this package: name -> runs table, sorted by name."""
    return {path.stem: path for path in sorted(resource_dir("profiles").glob("*.csv"))}


def shipped_profile(name: str) -> Path:
    """Return the runs table of one shipped profile.

    Raises `UnknownNameError` with the nearest name.
    """
    known = shipped_profiles()
    if name not in known:
        raise UnknownNameError(
            f"no profile {name!r} is shipped{did_you_mean(name, known)} (shipped: {', '.join(known)})"
        )
    return known[name]
