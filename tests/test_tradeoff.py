"""The table of smaller models: what it says of accuracy, sizes and times is what was so."""

import json
import time

import numpy as np

from engine import packed, tradeoff
from engine.metrics import mcnemar, wilson_interval

TRUTH = np.arange(200) % 10
DENSE = np.where(np.arange(200) % 20 == 0, 9 - TRUTH, TRUTH)
OTHER = np.where(np.arange(200) % 8 == 0, 9 - TRUTH, TRUTH)
PARAMS = {"w": np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32), "b": np.zeros(30, np.float32)}
SPARSE = {**PARAMS, "w": np.where(np.arange(1200).reshape(40, 30) % 10 == 0, PARAMS["w"], np.float32(0))}


def rows():
    return [
        tradeoff.measured("dense", DENSE, DENSE, TRUTH, PARAMS),
        tradeoff.measured("a tenth", OTHER, DENSE, TRUTH, SPARSE, note="w csr"),
    ]


def test_a_row_says_what_is_so():
    dense, sparse = rows()
    assert (dense.right, dense.of, dense.p) == (190, 200, None) and sparse.right == 175
    assert sparse.interval == wilson_interval(175, 200) and sparse.p == mcnemar(TRUTH, OTHER, DENSE)
    assert (dense.kept, sparse.kept, sparse.numbers) == (1200, 120, 1230)
    assert dense.bytes["dense"] == sparse.bytes["dense"] == 4 * 1230
    assert sparse.bytes["file"] == len(packed.pack(SPARSE)) < dense.bytes["file"] / 6
    assert json.loads(json.dumps(sparse.as_dict()))["accuracy"] == 0.875


def test_times_are_those_of_each_model(monkeypatch):
    monkeypatch.setattr(tradeoff, "ROUNDS", 3)
    monkeypatch.setattr(tradeoff, "SECONDS", 0.002)
    seen = []

    def model(seconds):
        return lambda x: (seen.append(len(x)), time.sleep(seconds))

    dense, sparse = tradeoff.timed(rows(), [model(0.004), model(0.001)], {1: TRUTH[:1], 64: TRUTH[:64]})
    assert set(seen) == {1, 64}
    for batch in (1, 64):
        middle, best = dense.latency[batch]
        assert 4000 <= best <= middle and 1000 <= sparse.latency[batch][1] < dense.latency[batch][1]


def test_the_table_lines_up_and_is_markdown_too(tmp_path):
    found = rows()
    lines = tradeoff.table(found).splitlines()
    assert len(lines) == 3 and lines[0].startswith("model") and lines[2].startswith("a tenth") and lines[2].endswith("w csr")
    assert "87.50%" in lines[2] and "95.00%" in lines[1] and "10.0%" in lines[2]
    at = lines[0].index("accuracy") + len("accuracy")
    assert lines[1][:at].endswith("95.00%") and lines[2][:at].endswith("87.50%")
    assert {line.count("|") for line in tradeoff.markdown(found).splitlines()} == {len(tradeoff.cells(found)[0]) + 1}
    tradeoff.plot(found, tmp_path / "a.png", title="two models")
    tradeoff.plot(found, tmp_path / "apart.png", title="two models", joined=False)
    assert (tmp_path / "apart.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
