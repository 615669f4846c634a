"""The weights that come along with the package; `pretrained/MODEL_CARD.md` says what they are."""

from pathlib import Path

DEFAULT = "photos"

_FOLDER = Path(__file__).parents[1] / "pretrained"
_SUFFIX = ".safetensors"


def names() -> list[str]:
    """What they are called, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}"))


def is_one(name: str) -> bool:
    """Whether some of them have that name; the default's is theirs even where its file is gone."""
    return name == DEFAULT or name in names()


def path_of(name: str) -> Path:
    """The file of some of them, which need not be there."""
    return _FOLDER / f"{name}{_SUFFIX}"
