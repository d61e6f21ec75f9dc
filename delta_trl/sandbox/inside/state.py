"""What a run of a program leaves behind for its next run in the same process.

Part of the worker process (`worker.py`): standard library only. A program that is wrong in a process of its own must not
be right because of an earlier run. This looks for what ordinary programs leave behind, and puts it back or asks for a new
process. A program that hides something from it gains nothing: no expected output is in any of its processes.
"""

import gc
import os
import random
import signal
import sys
import threading
import types


SEED = 0  # the same program gets the same verdict
STREAMS = {"stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"}  # opened anew for every run


class State:
    """Modules as they are now. Made in the worker, where the copies cost a program nothing."""

    def __init__(self) -> None:
        self._modules = {name: dict(vars(module)) for name, module in sys.modules.items()}

    def accept(self, name: str, attribute: str) -> None:
        """Take a module's attribute as it is now."""
        self._modules[name][attribute] = getattr(sys.modules[name], attribute)

    def named_in(self, code: types.CodeType) -> set[str]:
        """Names of the modules that a program imports with a statement, and perhaps of others."""
        names, found = set(), [code]
        while found:
            code = found.pop()
            names.update(code.co_names)
            found += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        return names & self._modules.keys()

    def is_changed(self, names: set[str]) -> bool:
        """Whether one of these modules has other attributes than at first. Others are too many to look at."""
        for name in names:
            saved, module = self._modules[name], sys.modules.get(name)
            now = {} if module is None else vars(module)
            if any(saved.get(key, self) is not value for key, value in now.items() if key not in STREAMS):
                return True
            if saved.keys() - now.keys():
                return True
        return False

    def reset(self, names: set[str]) -> None:
        """Put back what is no attribute of a module."""
        for name in sys.modules.keys() - self._modules.keys():
            del sys.modules[name]
        os.environ.clear()
        sys.argv[:] = ["program.py"]
        sys.path.clear()
        sys.setrecursionlimit(1000)
        if hasattr(sys, "set_int_max_str_digits"):
            sys.set_int_max_str_digits(0)
        sys.settrace(None)
        sys.setprofile(None)
        threading.stack_size(0)
        gc.enable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        random.seed(SEED)
        if "numpy" in names:
            sys.modules["numpy"].random.seed(SEED)
