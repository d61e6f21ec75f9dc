"""Where a rehearsal writes: a folder of its own in `output_dir`, of which nothing is left."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path


FOLDER = "rehearsal"
PLACES = MODEL, AS_CONFIGURED, STRAIGHT, RESUMED = "model", "as_configured", "straight", "resumed"
# Which folders were made for the rehearsal, above its own; without this file, what lies in `PLACES` is somebody else's
MARKER = "made_by_a_rehearsal.json"


class RehearsalFolder:
    """
    Args:
        output_dir: Of the run.
    """

    def __init__(self, output_dir: str):
        self.path = Path(output_dir, FOLDER)
        self._marker = self.path / MARKER

    def make(self) -> None:
        """
        Make it, unless an earlier rehearsal did.

        Raises:
            ValueError: It cannot be made, or holds what a rehearsal would remove and has not made.
        """
        if self._marker.exists():
            return
        if found := [place for name in PLACES if os.path.lexists(place := self.path / name)]:
            raise ValueError(
                f"{found[0]} is there, and no rehearsal made it: this one would remove it. Move it, or choose another "
                "--output_dir."
            )
        made = [str(path) for path in self.path.absolute().parents if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._marker.write_text(json.dumps(made), encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"output_dir {self.path.parent} cannot be made or written ({error.strerror}). Choose another "
                "--output_dir."
            ) from error

    def clear(self) -> None:
        """Remove the runs and the model in it."""
        for name in PLACES:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def remove(self) -> None:
        """Remove what was made for rehearsals. Other files stay, with the folders that they are in."""
        self.clear()
        with suppress(OSError):  # the first folder that is not empty, or that cannot be removed
            made = json.loads(self._marker.read_text(encoding="utf-8"))
            self._marker.unlink()
            for folder in (self.path, *made):
                os.rmdir(folder)
