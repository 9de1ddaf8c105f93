"""The README says what is so: its sessions run, its program runs, its links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md"), *ROOT.glob("engine/*/README.md")]


def test_the_sessions_print_what_they_say():
    session = "\n".join(re.sub(r"\n\n", "\n<BLANKLINE>\n", block) for block in BLOCKS if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 10
    told = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=told.append)
    assert not told, "".join(told)


def test_the_programs_run(tmp_path, monkeypatch):
    """A network of one's own learns, and a smaller model is one: the second program goes on with the names of the first."""
    own, smaller = [block for block in BLOCKS if not block.startswith(">>>")]
    names = {}
    exec(own.replace("epochs=5", "epochs=1, progress=False"), names)
    assert names["accuracy"] > 0.75
    monkeypatch.chdir(tmp_path)
    exec(re.sub(r"epochs=(\d+)", r"epochs=\1, progress=False", smaller), names)
    assert names["accuracy"] > 0.9 and names["in_integers"] > 0.9
    assert (tmp_path / "digits.packed").stat().st_size < sum(p.nbytes for p in names["first"].values()) / 45


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in t]
    assert [t for t in targets if t and not (page.parent / t).exists()] == []
