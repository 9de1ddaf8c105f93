"""Imports point downwards, `import engine` is light, and each package is complete without the floors above it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOORS = [
    {"kernels.registry", "kernels.door"},
    {"kernels", "kernels.cpu"},
    {"engine.domain", "engine.interpret", "engine.op", "engine.shapes", "engine.traced", "engine.tree"},
    {"engine.ops"},
    {"engine.explain", "engine.forward", "engine.observe", "engine.reverse"},
    {"engine"},
]


def modules():
    for package in ("engine", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


def imports(name, path):
    """The modules of ours that this file imports at module level or inside functions."""
    known = dict(modules())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names]
        else:
            continue
        yield from (f for f in found if f and f.split(".")[0] in ("engine", "kernels") and f != name)


def floor(name):
    """The number of the lowest floor that lists the module or a package that it is in; the models and what uses them stand on top."""
    if name in ("engine", "kernels"):
        return next(i for i, names in enumerate(FLOORS) if name in names)
    best = [(len(entry), i) for i, names in enumerate(FLOORS) for entry in names if name == entry or name.startswith(entry + ".")]
    _, i = max(best)
    return len(FLOORS) if FLOORS[i] == {"engine"} else i


def test_an_import_never_climbs():
    for name, path in modules():
        for target in imports(name, path):
            if target == "engine" and floor(name) > floor("engine"):
                continue
            assert floor(target) <= floor(name), f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)})"


def test_engine_takes_only_the_registry_from_kernels_below_the_models():
    for name, path in modules():
        if name.startswith("engine") and floor(name) <= floor("engine"):
            for target in imports(name, path):
                assert not target.startswith("kernels") or target == "kernels.registry", f"{name} imports {target}"


def test_kernels_know_no_engine():
    for name, path in modules():
        if name.startswith("kernels"):
            assert not [t for t in imports(name, path) if t.startswith("engine")], name


def run(code):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_engine_loads_numpy_and_nothing_heavy():
    loaded = run("import sys, engine; print(' '.join({m.partition('.')[0] for m in sys.modules}))").split()
    heavy = {"numba", "scipy", "matplotlib", "sklearn", "pandas", "rich", "click", "torch", "jax", "hypothesis", "mpmath", "safetensors"}
    assert "numpy" in loaded
    assert not heavy & set(loaded)


def test_the_engine_works_with_every_kernel_deleted(tmp_path):
    import shutil

    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kernels").mkdir()
    for file in ("__init__.py", "registry.py"):
        shutil.copy(ROOT / "kernels" / file, tmp_path / "kernels" / file)
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f).lower()]  # an editable install would find the kernels again
import numpy as np, engine, kernels
assert engine.__file__.startswith({str(tmp_path)!r})
assert kernels.backends() == []
print(engine.grad(lambda w: engine.ops.sum(engine.ops.matmul(w, w)))(np.eye(2)).sum())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 8.0


def test_another_package_called_kernels_is_named(tmp_path):
    (tmp_path / "kernels.py").write_text("x = 1\n")
    import shutil

    shutil.copytree(ROOT / "engine", tmp_path / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", "import engine"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "another package called `kernels`" in done.stderr
