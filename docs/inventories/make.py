"""Write the small intersphinx inventories beside this file.

The docs are built without network, so the inventories of other projects cannot be fetched. Only the names that
tnet's docs refer to are needed; a name that is missing here fails the build (``-n -W``), and is then added.

Run ``python docs/inventories/make.py``.
"""

from __future__ import annotations

import zlib
from pathlib import Path

#: project -> (version, {name: (type, address within its documentation)}); "$" repeats the name.
INVENTORIES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "python": (
        "3",
        {
            "concurrent.futures.Executor": ("py:class", "library/concurrent.futures.html#$"),
            "concurrent.futures._base.Executor": (
                "py:class",
                "library/concurrent.futures.html#concurrent.futures.Executor",
            ),
            "KeyboardInterrupt": ("py:exception", "library/exceptions.html#$"),
            "logging": ("py:module", "library/logging.html#module-$"),
            "pickle": ("py:module", "library/pickle.html#module-$"),
            "os.replace": ("py:function", "library/os.html#$"),
            "pathlib.Path": ("py:class", "library/pathlib.html#$"),
        },
    ),
    "numpy": (
        "2",
        {
            "numpy.memmap": ("py:class", "reference/generated/$.html#$"),
            "numpy.ndarray": ("py:class", "reference/generated/$.html#$"),
            "numpy.linalg.svd": ("py:function", "reference/generated/$.html#$"),
            "numpy.einsum": ("py:function", "reference/generated/$.html#$"),
            "numpy.random.Generator": ("py:class", "reference/random/generator.html#$"),
        },
    ),
    "scipy": (
        "1",
        {
            "scipy.optimize.milp": ("py:function", "reference/generated/$.html#$"),
            "scipy.linalg.svd": ("py:function", "reference/generated/$.html#$"),
        },
    ),
    "torch": (
        "2",
        {
            "torch.Tensor": ("py:class", "tensors.html#$"),
            "torch.Generator": ("py:class", "generated/$.html#$"),
            "torch.nn.Linear": ("py:class", "generated/$.html#$"),
            "torch.nn.Module": ("py:class", "generated/$.html#$"),
            "torch.nn.Parameter": (
                "py:class",
                "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter",
            ),
        },
    ),
}


def inventory(project: str, version: str, names: dict[str, tuple[str, str]]) -> bytes:
    """Return an inventory of Sphinx's version 2."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: {version}\n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{name} {kind} 1 {address.replace('$', name)} -\n" for name, (kind, address) in sorted(names.items())]
    return head.encode() + zlib.compress("".join(lines).encode(), 9)


if __name__ == "__main__":
    for project, (version, names) in INVENTORIES.items():
        Path(__file__).with_name(f"{project}.inv").write_bytes(inventory(project, version, names))
