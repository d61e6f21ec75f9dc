"""What programs can import, without a single path: modules the worker has loaded, and the sources of the rest.

Part of the worker process (`worker.py`): standard library only.
"""

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import os
import sys
import sysconfig


# Loaded once in the worker: what programs for contests and interviews import, what those modules import when first
# called, and modules that are shared objects, which no program can load later.
PRELOADED = (
    *("__future__", "abc", "array", "ast", "atexit", "base64", "binascii", "bisect", "builtins", "bz2", "calendar"),
    *("cmath", "codecs", "collections.abc", "concurrent.futures.thread", "contextlib", "copy", "csv", "ctypes"),
    *("dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "gc", "hashlib", "heapq"),
    *("hmac", "inspect", "io", "itertools", "json", "keyword", "linecache", "locale", "logging", "lzma", "math"),
    *("mmap", "multiprocessing", "numbers", "operator", "os", "pathlib", "pickle", "platform", "pprint", "queue"),
    *("random", "re", "resource", "secrets", "select", "selectors", "shutil", "signal", "socket", "statistics"),
    *("string", "stringprep", "struct", "subprocess", "sys", "tempfile", "textwrap", "threading", "time", "timeit"),
    *("traceback", "types", "typing", "unicodedata", "unittest", "unittest.mock", "uuid", "warnings", "weakref"),
    *("xml.etree.ElementTree", "zlib", "zoneinfo"),
    *("_asyncio", "_datetime", "_elementtree", "_multibytecodec", "_posixshmem", "_queue", "_statistics", "_strptime"),
    *("_zoneinfo", "_sqlite3", "_multiprocessing", "_contextvars", "_csv", "_lsprof", "_random", "audioop", "fcntl"),
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8_sig", "pyexpat", "syslog", "termios"),
    # Not of the standard library: there if the environment has them
    *("numpy", "numpy.fft", "numpy.random", "sortedcontainers"),
)
NUMPY_SEED = 0  # the same program gets the same verdict
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "ensurepip",
}

# What LeetCode gives to a solution without an import, as LiveCodeBench and verl do
OF_CALLED_PROGRAMS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing"),
)


def preload() -> None:
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # of another Python version, or not installed
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(NUMPY_SEED)


def names_for_called_programs() -> dict[str, object]:
    """The modules of `OF_CALLED_PROGRAMS`, and what `from module import *` gives, but never in place of a builtin."""
    names: dict[str, object] = {}
    for name in OF_CALLED_PROGRAMS:
        module = importlib.import_module(name)
        names[name] = module
        public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
        names.update({key: getattr(module, key) for key in public})
    return {name: value for name, value in names.items() if not hasattr(builtins, name)}


class SourceImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports pure Python modules of the standard library from their sources in memory."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int, bool]] = {}  # offset, size, whether it is a package
        sources = bytearray()
        root = sysconfig.get_path("stdlib")
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in LEFT_OUT and "-" not in name and name[:2] != "__"]
            package = os.path.relpath(folder, root).replace(os.sep, ".").strip(".")
            for file in files:
                if file.endswith(".py"):
                    is_package = file == "__init__.py"
                    name = package if is_package else f"{package}.{file[:-3]}".strip(".")
                    with open(os.path.join(folder, file), "rb") as stream:
                        source = stream.read()
                    self._places[name] = (len(sources), len(source), is_package)
                    sources += source
        # Shared memory: a fork need not copy its page tables
        self._sources = mmap.mmap(-1, len(sources))
        self._sources.write(sources)

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self._places:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def get_source(self, fullname: str) -> str:
        offset, size, _ = self._places[fullname]
        return importlib.util.decode_source(self._sources[offset : offset + size])

    def is_package(self, fullname: str) -> bool:
        return self._places[fullname][2]

    def install(self) -> None:
        """Nothing is looked up on disk from here on."""
        sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, self]
        sys.path.clear()
        sys.path_hooks.clear()
        sys.path_importer_cache.clear()
