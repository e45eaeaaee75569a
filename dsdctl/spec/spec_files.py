"""Spec files by the names that people type."""

import difflib
from pathlib import Path

ENDINGS = (".yaml", ".yml")


def nearest_spec(file: Path) -> Path | None:
    """A spec of that name with another ending or in the folder of specs, or of a similar name."""
    folders = dict.fromkeys((file.parent, Path("specs"), Path()))
    found = [
        place
        for folder in folders
        if folder.is_dir()
        for place in sorted(folder.iterdir())
        if place.suffix in ENDINGS and place.is_file()
    ]
    wanted = file.stem if file.suffix in ENDINGS else file.name
    names = {place.stem: place for place in reversed(found)}
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.7)
    return names[near[0]] if near else None
