"""Finds the spec file that a user may have meant."""

import difflib
from pathlib import Path

ENDINGS = (".yaml", ".yml")


def nearest_spec(file: Path) -> Path | None:
    """The spec with the most similar name, in the same folder, in specs/ or in the working folder;
    None if there is none. Extensions do not matter."""
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
