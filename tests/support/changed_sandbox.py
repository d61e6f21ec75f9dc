"""A sandbox whose own code is changed, to see what notices."""

import shutil

from delta_trl.sandbox import handle


def change_inside(folder, monkeypatch, name: str, *changes: tuple[str, str]) -> None:
    """Start workers from a copy, in `folder`, of what runs inside them, with texts of the file `name` replaced."""
    for file in handle.INSIDE.glob("*.py"):
        shutil.copy(file, folder)
    text = (folder / name).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / name).write_text(text)
    monkeypatch.setattr(handle, "INSIDE", folder)
