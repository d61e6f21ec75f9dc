"""What programs can import, without a single path: modules the worker has loaded, and the sources of the rest.

Part of the worker process (`worker.py`): standard library only.
"""

import builtins
import fcntl
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import os
import sys
import sysconfig
from collections.abc import Iterator


# Loaded once in the worker: what programs for contests and interviews import, what those modules import when first
# called, and modules that are shared objects, which no program can load later.
PRELOADED = (
    *("__future__", "abc", "array", "ast", "asyncio", "atexit", "base64", "binascii", "bisect", "builtins", "bz2"),
    "calendar",
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
    *("numpy", "numpy.fft", "numpy.random", "numpy.ma", "sortedcontainers"),
)
WITH_SOURCES = ("numpy", "sortedcontainers")  # of these packages, too: they import parts of themselves when first used
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
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


def _sources() -> Iterator[tuple[str, str]]:
    """(name of a module, path of its source)"""
    roots = {"": sysconfig.get_path("stdlib")}
    roots |= {name: os.path.dirname(sys.modules[name].__file__) for name in WITH_SOURCES if name in sys.modules}
    for prefix, root in roots.items():
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in LEFT_OUT and "-" not in name and name[:2] != "__"]
            inner = os.path.relpath(folder, root).replace(os.sep, ".").strip(".")
            package = f"{prefix}.{inner}".strip(".")
            for file in files:
                if file.endswith(".py"):
                    name = package if file == "__init__.py" else f"{package}.{file[:-3]}".strip(".")
                    yield name, os.path.join(folder, file)


class SourceImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports pure Python modules of the standard library, and of `WITH_SOURCES`, from their sources in memory.

    The sources lie in a sealed file that is mapped privately: all programs share its pages, none can change them, and
    what a program writes over its mapping stays in its process.
    """

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int, bool]] = {}  # offset, size, whether it is a package
        with os.fdopen(os.memfd_create("sources", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as sources:
            for name, path in _sources():
                with open(path, "rb") as file:
                    source = file.read()
                self._places[name] = (sources.tell(), len(source), os.path.basename(path) == "__init__.py")
                sources.write(source)
            sources.flush()
            fcntl.fcntl(sources, fcntl.F_ADD_SEALS, SEALS)
            self._sources = mmap.mmap(sources.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)

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
